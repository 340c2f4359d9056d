"""The training loop, which knows where it is and can go on from there."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from recurrent_attention._errors import printable
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training.checkpoints import Progress, check_identity
from recurrent_attention.training.draws import EpochOrder, loader_of, plainly, seed_of
from recurrent_attention.training.evaluation import (
    Evaluation,
    Scores,
    gather_output,
    run_evaluation,
    show_scores,
)
from recurrent_attention.training.networks import train_pass
from recurrent_attention.training.processes import Resources, Termination, end_process, from_main
from recurrent_attention.training.recipe import Recipe, build_optimizer, build_schedule
from recurrent_attention.training.run_folder import RunFolder

CHECKPOINT_SECONDS = 600  # within a long epoch; a kill loses no more


@dataclass(eq=False, kw_only=True)
class TrainingLoop:
    """Train and validate epoch by epoch; write a checkpoint after each, and when asked to end.

    `network` is the model, or its heads alone for frozen features; the data give (image, patches,
    label), or (features, features, label). `names` are of the training pictures, for messages.
    `identity` must be the same for a checkpoint to fit; JSON can hold it.
    """

    resources: Resources
    model: TwoStreamClassifier
    network: nn.Module
    train_data: Any
    validation_data: Any
    names: tuple[str, ...]
    recipe: Recipe
    identity: dict[str, Any]
    run_folder: RunFolder | None

    def __post_init__(self) -> None:
        """Prepare network, optimiser and loaders, for a run from its beginning."""
        recipe, workers = self.recipe, self.resources.num_workers
        self.accelerator = accelerator = self.resources.accelerator
        self.loss_of = TwoStreamLoss(recipe.local_weight, recipe.label_smoothing)
        self.order = EpochOrder(self.train_data, recipe.seed, shuffle=True)
        self.pictures_per_batch = recipe.batch_size * accelerator.num_processes
        loader = loader_of(
            self.train_data,
            self.order,
            recipe.batch_size,
            workers,
            # A last batch of one picture cannot be normalised over the batch.
            drop_last=len(self.train_data) > self.pictures_per_batch,
        )
        self.network, self.optimizer, self.loader = accelerator.prepare(
            self.network, build_optimizer(self.model, recipe), loader
        )
        self.batches_per_epoch = len(self.loader)
        updates = math.ceil(self.batches_per_epoch / recipe.accumulation_steps)
        self.schedule = build_schedule(self.optimizer.optimizer, recipe, updates)
        self.validation_loader = None
        if self.validation_data is not None:
            self.validation_order = EpochOrder(self.validation_data, recipe.seed, shuffle=False)
            self.validation_loader = accelerator.prepare(
                loader_of(self.validation_data, self.validation_order, recipe.batch_size, workers)
            )

        self.progress = Progress()
        self.scores = Scores(self.model.num_classes, accelerator.device)
        self.best_weights: dict[str, Tensor] = {}
        self.termination = Termination()
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one, of the same model, recipe and data."""
        assert self.run_folder is not None
        checkpoints = self.run_folder.checkpoints
        # The main process says which; one that cannot see the file must not begin by itself.
        steps = from_main(checkpoints.steps)
        if not steps:
            return
        state = checkpoints.load(steps[-1])
        check_identity(state["identity"], self.identity, checkpoints.path(steps[-1]))
        self.progress = Progress(**state["progress"])
        if self.progress.best_step >= 0:
            is_last = self.progress.best_step == steps[-1]
            best = state if is_last else checkpoints.load(self.progress.best_step)
            self.model.load_state_dict(best["model"], strict=False)
            self.best_weights = self._copy_weights()
            # A kill may have come between a checkpoint and what is made from it.
            self.run_folder.save_model(self.model)
            self.run_folder.write_metrics(self.progress.history)
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scores.load_state_dict(state["scores"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def run(self) -> None:
        """Train to the end; the model holds the best epoch's weights afterwards."""
        # Where nothing can be saved, these signals end the process as ever.
        with self.termination if self.run_folder is not None else nullcontext():
            while self.progress.epoch <= self.recipe.epochs:
                if self.progress.record is None:
                    self._train()
                self._close_epoch(self._validate())
        self.model.load_state_dict(self.best_weights, strict=False)

    def _train(self) -> None:
        """Train for an epoch, or for what is left of it."""
        at, accelerator = self.progress, self.accelerator
        self.model.train()
        if self.recipe.freeze:  # their running statistics stay as they are, too
            self.model.global_backbone.eval()
            self.model.local_backbone.eval()
        self.order.go_to(at.epoch, at.batches * self.pictures_per_batch)
        started = time.perf_counter() - at.seconds
        bar = tqdm(
            plainly(self.loader),
            desc=f"epoch {at.epoch}/{self.recipe.epochs}",
            initial=at.batches,
            total=self.batches_per_epoch,
            leave=False,
            disable=not self.resources.progress,
        )
        for indices, first, second, labels, *_ in bar:
            place = (at.epoch, "batch", at.batches, accelerator.process_index)
            torch.manual_seed(seed_of(self.recipe.seed, *place))  # of dropout
            with accelerator.accumulate(self.network):
                output = train_pass(self.network, first, second, accelerator.num_processes)
                loss = self.loss_of(output, labels)
                save, end = self._look_around(loss, indices)
                accelerator.backward(loss)
                self.optimizer.step()
                if accelerator.sync_gradients:
                    self.schedule.step()
                    at.step += 1
                self.optimizer.zero_grad()
            self.scores.update(*gather_output(accelerator.gather, output, labels), self.loss_of)
            show_scores(bar, self.scores)
            at.batches += 1
            at.seconds = time.perf_counter() - started
            if not accelerator.sync_gradients or at.batches == self.batches_per_epoch:
                continue  # between two updates nothing can be saved; after the last one, it will be
            if save or end:
                self._save()
            if end:
                self._end(end)
        at.record = {"epoch": at.epoch, "lr": self.schedule.get_last_lr()}
        at.record |= {f"train_{name}": value for name, value in self.scores.compute().items()}
        at.record["seconds"] = round(at.seconds, 3)
        at.record["images_per_second"] = self.scores.num_images / at.seconds
        self.scores.reset()
        self._end_if_asked()

    def _validate(self) -> Evaluation | None:
        if self.validation_loader is None:
            return None
        self.validation_order.go_to(self.progress.epoch)
        return run_evaluation(
            self.resources,
            self.network,
            self.validation_loader,
            self.model.num_classes,
            self.loss_of,
            after_batch=self._end_if_asked,
        )

    def _close_epoch(self, found: Evaluation | None) -> None:
        """Note what the epoch found, keep its weights if they are the best, and save."""
        at = self.progress
        assert at.record is not None
        record, score = at.record, float(at.epoch)  # without validation, the last is the best
        if found is not None:
            record |= _validation_record(found, at.epoch)
            score = -found.loss if self.recipe.choose_epoch_by == "loss" else found.fused_top1
        better = score > at.best_score
        if better:
            at.best_score, at.best_epoch, at.best_step = score, at.epoch, at.step
            self.best_weights = self._copy_weights()
        at.history.append(record)
        at.epoch, at.batches, at.seconds, at.record = at.epoch + 1, 0, 0.0, None
        self._save()
        if self.run_folder is not None:
            if better:
                self.run_folder.save_model(self.model)
            self.run_folder.write_metrics(at.history)
        if self.resources.progress:
            tqdm.write(_line_of(record, self.recipe.epochs))
        if number := self._asked():
            self._end(number)

    def _look_around(self, loss: Tensor, indices: Tensor) -> tuple[bool, int]:
        """Refuse a loss that is not finite; ask all processes whether to save, and to end."""
        due = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        seen = [loss.item(), float(due), float(self.termination.asked)]
        mine = torch.tensor(seen, device=loss.device)
        losses, dues, asks = self.accelerator.gather(mine).view(-1, 3).unbind(1)
        if not bool(torch.isfinite(losses).all()):
            names = [printable(self.names[i]) for i in self.accelerator.gather(indices).tolist()]
            last = f" {self.run_folder.checkpoints.last_one()}" if self.run_folder else ""
            at = self.progress
            raise FloatingPointError(
                f"Expected a finite loss, but got {losses[~torch.isfinite(losses)][0].item()} in "
                f"epoch {at.epoch}, batch {at.batches + 1} (update {at.step + 1}), at learning "
                f"rate {self.schedule.get_last_lr()[-1]:.2g}, on the pictures {', '.join(names)}. "
                f"Lower the learning rate, train in fp32, or look at these pictures.{last}"
            )
        return bool(dues[0] > 0), int(asks.max())  # the main process's clock counts

    def _asked(self) -> int:
        """Ask all processes for the signal that one of them got; 0 if none did."""
        if self.run_folder is None:
            return 0
        asked = torch.tensor([float(self.termination.asked)], device=self.accelerator.device)
        return int(self.accelerator.gather(asked).max())

    def _end_if_asked(self) -> None:
        if number := self._asked():
            self._save()
            self._end(number)

    def _end(self, number: int) -> None:
        where = f"after update {self.progress.step}, in epoch {self.progress.epoch}"
        note = f"saved {where}. Start the run again with resume=True (--resume) to go on there."
        end_process(number, note if self.accelerator.is_main_process else "")

    def _save(self) -> None:
        if self.run_folder is None:
            return
        self.saved_at = time.monotonic()
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = {
                "identity": self.identity,
                "progress": asdict(self.progress),
                "model": self._weights(),
                "optimizer": self.optimizer.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scores": self.scores.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            self.run_folder.checkpoints.save(
                state, step=self.progress.step, best_step=self.progress.best_step
            )
        self.accelerator.wait_for_everyone()

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that are trained; those of frozen backbones stay as they are."""
        frozen = ("global_backbone.", "local_backbone.") if self.recipe.freeze else ()
        weights = self.model.state_dict()
        return {name: weights[name] for name in weights if not name.startswith(frozen)}

    def _copy_weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._weights().items()}


def _validation_record(found: Evaluation, epoch: int) -> dict[str, float]:
    """Return what an epoch's line of metrics says of the validation data; refuse NaN."""
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"Expected a finite loss on the validation data, but got {found.loss} after epoch "
            f"{epoch}. Lower the learning rate, or train in fp32."
        )
    return {
        "val_loss": found.loss,
        "val_global": found.global_top1,
        "val_local": found.local_top1,
        "val_fused": found.fused_top1,
        "val_images_per_second": found.images_per_second,
    }


def _line_of(record: dict[str, Any], epochs: int) -> str:
    """Return an epoch as a line of text."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        f"loss {record['train_loss']:.3f}",
    ]
    for kind in ("train", "val"):
        if f"{kind}_fused" in record:
            values = [f"{100 * record[f'{kind}_{s}']:.1f}" for s in ("global", "local", "fused")]
            parts.append(f"{kind} global {values[0]} local {values[1]} fused {values[2]}")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])
