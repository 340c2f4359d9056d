"""Training a two-stream classifier: `fit`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from recurrent_attention._devices import Device
from recurrent_attention._modes import kept_modes
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.hub.config import as_json
from recurrent_attention.training.feature_store import digest_of
from recurrent_attention.training.features import frozen_features
from recurrent_attention.training.loop import OnBatch, OnEpoch, TrainingLoop
from recurrent_attention.training.networks import (
    Heads,
    Streams,
    checkpointed,
    lent,
    own_training,
)
from recurrent_attention.training.optimization import backbone_parameters, check_trainable
from recurrent_attention.training.processes import Resources, from_main, own_accelerate_state
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.run_folder import RunFolder
from recurrent_attention.training.samples import samples_of
from recurrent_attention.training.tracking import Trackers, checked_trackers


class FitResult(NamedTuple):
    """The result of `fit`.

    Attributes:
        history: one dictionary an epoch: loss and accuracy in training and, where there is
            validation data, on it (`val_*`); learning rates; seconds.
        best_epoch: the epoch, from 1, whose weights the model holds now.
    """

    history: list[dict[str, Any]]
    best_epoch: int


@own_accelerate_state()
def fit(
    model: TwoStreamClassifier,
    train_data: TwoStreamDataset,
    validation_data: TwoStreamDataset | None = None,
    *,
    recipe: Recipe | None = None,
    run_folder: RunFolder | None = None,
    resume: bool = False,
    cache_dir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
    trackers: Trackers = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> FitResult:
    """Train both streams; the model ends with the weights of the best validation epoch.

    The streams share no parameter and the loss is a sum, so the global stream is trained exactly as
    a global-only classifier would be.

    With a run folder, a checkpoint is written after each epoch, every ten minutes within a longer
    one, and on SIGTERM or Ctrl-C, which then end the process with exit code 143 or 130; a second
    Ctrl-C ends it at once. With `resume`, training goes on from the last checkpoint, and ends as it
    would have without the break: on the same CPU bit for bit, in weights and in metrics, but for
    the seconds. Data and models must draw from torch's generators, as those of this package do.

    Under `torchrun`, several processes share each batch of `Recipe.batch_size` times their
    number; batch norms see all of it.

    Args:
        model: to be trained in place. It stays on the device of the training, in eval mode; its
            hooks, gradients and `forward` are as before.
        train_data: with `train=True`; also torch's `Subset` or `ConcatDataset` of such data sets.
            Classes are found by name where the model has names.
        validation_data: chooses the epoch (`Recipe.choose_epoch_by`); without it, the last epoch
            is kept.
        recipe: default `Recipe()`.
        run_folder: gets a line of metrics.jsonl an epoch, the checkpoints of the best and of the
            last epoch, and the best model so far.
        resume: go on from the last checkpoint in `run_folder`; if there is none, begin. Model,
            data and recipe must be those of the checkpoint, and the processes as many; a recipe
            with steps may have more epochs than before.
        cache_dir: keeps the features of frozen backbones; None keeps them in memory.
        on_epoch: called in the main process after each epoch with its line of metrics, a
            dictionary; the model holds the weights that were measured. If it returns True, the
            training ends there, with the best epoch so far.
        on_batch: called in the main process after each batch with `epoch`, `batch` of `batches`,
            `loss` and the learning rates `lr`.
        trackers: names of Accelerate's trackers ("tensorboard", "wandb", "mlflow", "trackio" and
            more) or `accelerate.tracking.GeneralTracker`s; they get each epoch's metrics. Files go
            into the run folder.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.

    Returns:
        `FitResult`. The global random state, and what requires a gradient, are as before.

    Raises:
        ValueError: if classes are not the model's, there is nothing to train or to train on, the
            device or a tracker is not there, `patience` has no validation data to count on, or a
            checkpoint is damaged or of another training.
        TypeError: if the data are no `TwoStreamDataset`.
        RuntimeError: if weights were made under `torch.inference_mode`.
        FloatingPointError: if the loss or a weight is no longer finite. It names epoch, update,
            learning rate and pictures; the last good checkpoint stays.
        FileExistsError: if `run_folder` holds checkpoints already, without `resume`.
        OSError: if a checkpoint cannot be written; the one before stays.
        SystemExit: if SIGTERM or Ctrl-C came, after a checkpoint was written.
    """
    recipe = recipe or Recipe()
    if resume and run_folder is None:
        raise ValueError(
            "Expected a `run_folder` to resume from, but got None. Pass RunFolder(path, "
            "resume=True)."
        )
    if run_folder is not None and not resume:
        from_main(run_folder.check_unused)
    training = samples_of(model, train_data, "train_data", stacklevel=3)
    validation, names = None, training.class_names
    if validation_data is not None:
        validation = samples_of(
            model, validation_data, "validation_data", class_names=names, stacklevel=3
        )
    elif recipe.patience is not None:
        raise ValueError(
            f"Expected `validation_data` to stop after patience={recipe.patience} epochs without a "
            "better one, but got None. Pass some, or patience=None."
        )
    check_trainable(model)
    config = model.config if run_folder is not None else {}
    as_json(config)  # refuses what the saved model could not be built from
    folder = None if run_folder is None else run_folder.path
    resources = Resources(
        model,
        device=device,
        num_workers=num_workers,
        progress=progress,
        cache_dir=cache_dir,
        precision=recipe.precision,
        accumulation_steps=recipe.accumulation_steps,
        trackers=checked_trackers(trackers, folder),
        tracked_in=folder,
    )
    frozen = backbone_parameters(model) if recipe.freeze else []
    with (
        own_training(model.parameters()),
        lent(frozen, "requires_grad", False),
        kept_modes(model),  # if the training fails
        checkpointed(model, recipe.grad_checkpointing),
    ):
        network: nn.Module = Streams(model)
        shown: list[Any] = [training, validation]
        if recipe.freeze:
            network = Heads(model)
            shown = [
                None if data is None else frozen_features(model, data, resources) for data in shown
            ]
            resources.num_workers = 0  # features are rows of a table: a process would cost more
        identity: dict[str, Any] = {}
        if run_folder is not None:  # else nothing is kept that it would be compared with
            backbones = [model.global_backbone, model.local_backbone] if recipe.freeze else []
            identity = {
                "recipe": asdict(recipe),
                "processes": resources.accelerator.num_processes,
                "model": config,
                "frozen backbones": [digest_of(backbone) for backbone in backbones] or None,
                "training data": training.digest(),
                "validation data": None if validation is None else validation.digest(),
            }
        loop = TrainingLoop(
            resources=resources,
            model=model,
            network=network,
            train_data=shown[0],
            validation_data=shown[1],
            names=training.names,
            labels=training.labels,
            recipe=recipe,
            identity=json.loads(json.dumps(identity)),  # tuples become lists, as in the file
            run_folder=run_folder,
            on_epoch=on_epoch,
            on_batch=on_batch,
        )
        if resume:
            loop.state.resume()
        loop.run()
        model.eval()
        return FitResult(loop.progress.history, loop.progress.best_epoch)
