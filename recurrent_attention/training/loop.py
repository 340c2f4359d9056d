"""The training loop, which knows where it is and can go on from there."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from recurrent_attention._errors import printable
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training.averaging import WeightAverage
from recurrent_attention.training.draws import EpochOrder, loader_of, plainly, seed_of
from recurrent_attention.training.evaluation import Evaluation, gather_output, run_evaluation
from recurrent_attention.training.mixing import class_weights, mix
from recurrent_attention.training.networks import counted_once, train_pass
from recurrent_attention.training.optimization import Schedule, build_optimizer
from recurrent_attention.training.processes import Resources, Termination, end_process, from_main
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.records import line_of, validation_record
from recurrent_attention.training.run_folder import RunFolder
from recurrent_attention.training.scores import Scores, show_scores
from recurrent_attention.training.state import TrainingState
from recurrent_attention.training.tracking import end_tracking, start_tracking, track_epoch

OnEpoch = Callable[[dict[str, Any]], bool | None]
OnBatch = Callable[[dict[str, Any]], None]


@dataclass(eq=False, kw_only=True)
class TrainingLoop:
    """Train and validate epoch by epoch; write a checkpoint after each, and when asked to end.

    `network` is the model, or its heads alone for frozen features; the data return (image, patches,
    label), or (features, features, label). `names` and `labels` are of the training pictures.
    `identity` must be the same for a checkpoint to fit; JSON can hold it.
    """

    resources: Resources
    model: TwoStreamClassifier
    network: nn.Module
    train_data: Any
    validation_data: Any
    names: tuple[str, ...]
    labels: tuple[int, ...]
    recipe: Recipe
    identity: dict[str, Any]
    run_folder: RunFolder | None
    on_epoch: OnEpoch | None = None
    on_batch: OnBatch | None = None

    def __post_init__(self) -> None:
        """Prepare network, optimiser and loaders, for a run from its beginning."""
        recipe, workers = self.recipe, self.resources.num_workers
        self.accelerator = accelerator = self.resources.accelerator
        balance, labels = recipe.class_balance, torch.tensor(self.labels)
        per_class = class_weights(labels, self.model.num_classes)
        self.loss_of = TwoStreamLoss(
            recipe.local_weight,
            recipe.label_smoothing,
            weight=per_class if balance == "loss" else None,
        ).to(accelerator.device)
        self.order = EpochOrder(
            self.train_data,
            recipe.seed,
            shuffle=True,
            weights=per_class[labels] if balance == "sampler" else None,
        )
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
        self.schedule = Schedule(self.optimizer.optimizer, recipe, updates)
        self.average = (
            None
            if recipe.ema_decay is None
            else WeightAverage(self.model, recipe.ema_decay, freeze=recipe.freeze)
        )
        if recipe.compile:
            self.network.compile()
        self.validation_loader = None
        if self.validation_data is not None:
            self.validation_order = EpochOrder(self.validation_data, recipe.seed, shuffle=False)
            self.validation_loader = accelerator.prepare(
                loader_of(self.validation_data, self.validation_order, recipe.batch_size, workers)
            )

        self.scores = Scores(self.model.num_classes, accelerator.device)
        self.state = TrainingState(
            accelerator=accelerator,
            model=self.model,
            optimizer=self.optimizer,
            schedule=self.schedule,
            average=self.average,
            scores=self.scores,
            freeze=recipe.freeze,
            run_folder=self.run_folder,
            identity=self.identity,
        )
        self.progress = self.state.progress
        self.termination = Termination()

    def run(self) -> None:
        """Train to the end; the model holds the best epoch's weights afterwards."""
        # Where nothing can be saved, these signals end the process as ever.
        start_tracking(self.accelerator, asdict(self.recipe))
        try:
            with self.termination if self.run_folder is not None else nullcontext():
                while not self._is_over():
                    if self.progress.record is None:
                        self._train()
                    with self._averaged():
                        self._close_epoch(self._validate())
        finally:
            end_tracking(self.accelerator)
        self.model.load_state_dict(self.state.best_weights, strict=False)

    def _is_over(self) -> bool:
        at, patience = self.progress, self.recipe.patience
        worse = at.epoch - 1 - at.best_epoch  # epochs since the best one
        return at.epoch > self.recipe.epochs or at.stopped or (patience or math.inf) <= worse

    def _averaged(self) -> AbstractContextManager[None]:
        """Let the model have the weights that count, meanwhile."""
        return nullcontext() if self.average is None else self.average.shown()

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
                first, second, targets = self._mixed(first, second, labels)
                output = train_pass(self.network, first, second, accelerator.num_processes)
                loss = self.loss_of(output, targets)
                save, end = self._look_around(loss, indices)
                gathered = gather_output(accelerator.gather, output, targets)
                self.scores.update(*gathered, self.loss_of)
                del output, gathered  # large with many classes; the backward pass needs them not
                with counted_once(self.model, self.recipe.grad_checkpointing):
                    accelerator.backward(loss)
                if accelerator.sync_gradients and self.recipe.clip_grad is not None:
                    accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
                self.optimizer.step()
                if accelerator.sync_gradients:
                    self.schedule.step()
                    at.step += 1
                    if self.average is not None:
                        self.average.update(at.step)
                self.optimizer.zero_grad()
            show_scores(bar, self.scores)
            at.batches += 1
            at.seconds = time.perf_counter() - started
            self._tell_batch(loss)
            if not accelerator.sync_gradients or at.batches == self.batches_per_epoch:
                continue  # between two updates nothing can be saved; after the last one, it will be
            if save or end:
                self.state.save()
            if end:
                self._end(end)
        at.record = {"epoch": at.epoch, "lr": self.schedule.rates()}
        at.record |= {f"train_{name}": value for name, value in self.scores.compute().items()}
        at.record["seconds"] = round(at.seconds, 3)
        at.record["images_per_second"] = self.scores.num_images / at.seconds
        self.scores.reset()
        self._end_if_asked()

    def _mixed(self, first: Tensor, second: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Mix a batch as the recipe says; without that, targets are the labels."""
        recipe = self.recipe
        if not recipe.mixup and not recipe.cutmix:
            return first, second, labels
        strengths = {"mixup": recipe.mixup, "cutmix": recipe.cutmix}
        return mix(first, second, labels, self.model.num_classes, **strengths)

    def _tell_batch(self, loss: Tensor) -> None:
        if self.on_batch is not None and self.accelerator.is_main_process:
            at = self.progress
            place = {"epoch": at.epoch, "batch": at.batches, "batches": self.batches_per_epoch}
            self.on_batch(place | {"loss": loss.item(), "lr": self.schedule.rates()})

    def _tell_epoch(self, record: dict[str, Any]) -> bool:
        """Call the user's function in the main process; return in all whether it ends the run."""
        if self.on_epoch is None:
            return False
        on_epoch = self.on_epoch
        return from_main(lambda: on_epoch(dict(record)) is True)

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
            record |= validation_record(found, at.epoch)
            score = -found.loss if self.recipe.choose_epoch_by == "loss" else found.fused_top1
        better = self.state.keep_if_best(score)
        at.history.append(record)
        at.epoch, at.batches, at.seconds, at.record = at.epoch + 1, 0, 0.0, None
        self.state.save()
        if self.run_folder is not None:
            if better:
                self.run_folder.save_model(self.model)
            self.run_folder.write_metrics(at.history)
        if self.resources.progress:
            tqdm.write(line_of(record, self.recipe.epochs))
        track_epoch(self.accelerator, record)
        if self._tell_epoch(record):
            at.stopped = True
            self.state.save()
        if number := self._asked():
            self._end(number)

    def _look_around(self, loss: Tensor, indices: Tensor) -> tuple[bool, int]:
        """Refuse a loss that is not finite; ask all processes whether to save, and to end."""
        seen = [loss.item(), float(self.state.is_due()), float(self.termination.asked)]
        mine = torch.tensor(seen, device=loss.device)
        losses, dues, asks = self.accelerator.gather(mine).view(-1, 3).unbind(1)
        if not bool(torch.isfinite(losses).all()):
            names = [printable(self.names[i]) for i in self.accelerator.gather(indices).tolist()]
            last = f" {self.run_folder.checkpoints.last_one()}" if self.run_folder else ""
            at = self.progress
            raise FloatingPointError(
                f"Expected a finite loss, but got {losses[~torch.isfinite(losses)][0].item()} in "
                f"epoch {at.epoch}, batch {at.batches + 1} (update {at.step + 1}), at learning "
                f"rate {self.schedule.rates()[-1]:.2g}, on the pictures {', '.join(names)}. "
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
            self.state.save()
            self._end(number)

    def _end(self, number: int) -> None:
        where = f"after update {self.progress.step}, in epoch {self.progress.epoch}"
        note = f"saved {where}. Start the run again with resume=True (--resume) to go on there."
        end_process(number, note if self.accelerator.is_main_process else "")
