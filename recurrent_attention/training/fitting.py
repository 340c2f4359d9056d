"""The training loop, on Accelerate."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training.accelerator import Device, make_accelerator, to_channels_last
from recurrent_attention.training.evaluation import (
    Scores,
    check_labels,
    run_evaluation,
    show_scores,
)
from recurrent_attention.training.features import Heads, frozen_features
from recurrent_attention.training.recipe import (
    Recipe,
    backbone_parameters,
    build_optimizer,
    build_schedule,
)
from recurrent_attention.training.run_folder import RunFolder


class FitResult(NamedTuple):
    """What a training run did.

    Attributes:
        history: one dictionary an epoch: loss and accuracy in training and, where there is
            validation data, on it (`val_*`); learning rates; seconds.
        best_epoch: the epoch, from 1, whose weights the model holds now.
    """

    history: list[dict[str, Any]]
    best_epoch: int


def fit(
    model: TwoStreamClassifier,
    train_data: TwoStreamDataset,
    validation_data: TwoStreamDataset | None = None,
    *,
    recipe: Recipe | None = None,
    run_folder: RunFolder | None = None,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> FitResult:
    """Train both streams; the model ends with the weights of the best validation epoch.

    The streams share no parameter and the loss is a sum, so the global stream is trained exactly as
    a global-only classifier would be.

    Args:
        model: to be trained in place; it stays on the device of the training, in torch's
            channels-last layout, with which convolutions on a CPU are 1.2 to 2 times as fast.
        train_data: with `train=True`.
        validation_data: chooses the epoch (`Recipe.choose_epoch_by`); without it, the last epoch
            is kept.
        recipe: default `Recipe()`.
        run_folder: gets a line of metrics.jsonl an epoch, and the best model so far.
        cache_dir: keeps the features of frozen backbones; None keeps them in memory.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.

    Returns:
        `FitResult`. The global random state, and what requires a gradient, are as before.

    Raises:
        ValueError: if labels do not fit the model, or the device is not there.
        FloatingPointError: if the loss is no longer finite.
    """
    recipe = recipe or Recipe()
    for data in (train_data, validation_data):
        if data is not None:
            check_labels(model, data.pictures)
    accelerator = make_accelerator(device, recipe.precision, recipe.accumulation_steps)
    to_channels_last(model.to(accelerator.device))
    was_training = model.training
    # The CPU's generator draws order, patches, crops; a GPU's draws only dropout.
    with torch.random.fork_rng(), _frozen(model, recipe.freeze):
        torch.manual_seed(recipe.seed)
        try:
            return _fit(
                accelerator,
                model,
                train_data,
                validation_data,
                recipe,
                run_folder,
                cache_dir,
                num_workers,
                progress,
            )
        finally:
            model.train(was_training)


def _fit(
    accelerator: Accelerator,
    model: TwoStreamClassifier,
    train_data: TwoStreamDataset,
    validation_data: TwoStreamDataset | None,
    recipe: Recipe,
    run_folder: RunFolder | None,
    cache_dir: str | Path | None,
    num_workers: int,
    progress: bool,
) -> FitResult:
    network: nn.Module = model
    datasets: list[Any] = [train_data, validation_data]
    if recipe.freeze:
        network = Heads(model)
        datasets = [
            data
            and frozen_features(
                model,
                data,
                accelerator=accelerator,
                cache_dir=cache_dir,
                num_workers=num_workers,
                progress=progress,
            )
            for data in datasets
        ]
        num_workers = 0  # features are rows of a table: a process would cost more than it brings
    loader = DataLoader(
        datasets[0],
        recipe.batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # A last batch of one picture cannot be normalised over the batch.
        drop_last=len(datasets[0]) > recipe.batch_size,
    )
    validation_loader = None
    if validation_data is not None:
        validation_loader = DataLoader(datasets[1], recipe.batch_size, num_workers=num_workers)
        validation_loader = accelerator.prepare(validation_loader)
    optimizer = build_optimizer(model, recipe)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    updates = math.ceil(len(loader) / recipe.accumulation_steps)
    schedule = build_schedule(optimizer.optimizer, recipe, updates)
    loss_of = TwoStreamLoss(recipe.local_weight, recipe.label_smoothing)

    history: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    for epoch in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        model.train()
        if recipe.freeze:  # their running statistics stay as they are, too
            model.global_backbone.eval()
            model.local_backbone.eval()
        scores = Scores(model.num_classes, accelerator.device)
        description = f"epoch {epoch}/{recipe.epochs}"
        bar = tqdm(loader, desc=description, leave=False, disable=not progress)
        for first, second, labels, *_ in bar:
            with accelerator.accumulate(network):
                output = network(first, second)
                loss = loss_of(output, labels)
                if not bool(torch.isfinite(loss)):
                    raise FloatingPointError(
                        f"Expected a finite loss, but got {loss.item()} in epoch {epoch} at "
                        f"learning rate {schedule.get_last_lr()[-1]:.2g}. Lower the learning rate, "
                        "or train in fp32."
                    )
                accelerator.backward(loss)
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
            scores.update(output, labels, loss.detach())
            show_scores(bar, scores)
        seconds = time.perf_counter() - started
        record: dict[str, Any] = {"epoch": epoch, "lr": schedule.get_last_lr()}
        record |= {f"train_{name}": value for name, value in scores.compute().items()}
        record |= {"seconds": round(seconds, 3), "images_per_second": scores.num_images / seconds}
        if validation_loader is not None:
            found = run_evaluation(
                accelerator, network, validation_loader, model.num_classes, loss_of, progress
            )
            record |= {
                "val_loss": found.loss,
                "val_global": found.global_top1,
                "val_local": found.local_top1,
                "val_fused": found.fused_top1,
                "val_images_per_second": found.images_per_second,
            }
        history.append(record)
        score = float(epoch)  # without validation, the last epoch is the best
        if validation_loader is not None:
            by_loss = recipe.choose_epoch_by == "loss"
            score = -record["val_loss"] if by_loss else record["val_fused"]
        if best is None or score > best[0]:
            weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            best = (score, epoch, weights)
            if run_folder is not None and accelerator.is_main_process:
                run_folder.save_model(model)
        if run_folder is not None and accelerator.is_main_process:
            run_folder.add_metrics(record)
        if progress:
            tqdm.write(_line(record, recipe.epochs))
    assert best is not None
    model.load_state_dict(best[2])
    return FitResult(history, best[1])


def _line(record: dict[str, Any], epochs: int) -> str:
    """Put an epoch into a line of text."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        f"loss {record['train_loss']:.3f}",
    ]
    for kind in ("train", "val"):
        if f"{kind}_fused" in record:
            values = [f"{100 * record[f'{kind}_{s}']:.1f}" for s in ("global", "local", "fused")]
            parts.append(f"{kind} global {values[0]} local {values[1]} fused {values[2]}")
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])


@contextmanager
def _frozen(model: TwoStreamClassifier, freeze: bool) -> Iterator[None]:
    """Ask for no gradient of the backbones meanwhile."""
    parameters = backbone_parameters(model) if freeze else []
    asked = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)
