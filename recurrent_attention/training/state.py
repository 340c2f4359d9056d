"""What a training remembers from update to update, and can go on from."""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.training.averaging import WeightAverage, trained_weights
from recurrent_attention.training.checkpoints import check_identity
from recurrent_attention.training.optimization import Schedule
from recurrent_attention.training.processes import from_main
from recurrent_attention.training.run_folder import RunFolder
from recurrent_attention.training.scores import Scores

CHECKPOINT_SECONDS = 600  # within a long epoch; a kill loses no more


@dataclass
class Progress:
    """Where a run is, in numbers and lists that JSON can hold."""

    epoch: int = 1  # the one that is trained, from 1
    batches: int = 0  # of it that are done
    step: int = 0  # updates done since the beginning
    seconds: float = 0.0  # that this epoch's training took so far
    record: dict[str, Any] | None = None  # of this epoch, once trained and not yet validated
    history: list[dict[str, Any]] = field(default_factory=list)  # the epochs before
    best_score: float = -math.inf  # highest so far
    best_epoch: int = 0  # whose weights have it
    best_step: int = -1  # of its checkpoint
    stopped: bool = False  # by the caller's `on_epoch`


@dataclass(eq=False, kw_only=True)
class TrainingState:
    """All that a training remembers: weights, averages, optimiser, rates, scores and its place.

    `identity` must be the same for a checkpoint to fit; JSON can hold it. Without a run folder
    nothing is written.
    """

    accelerator: Accelerator
    model: TwoStreamClassifier
    optimizer: AcceleratedOptimizer
    schedule: Schedule
    average: WeightAverage | None
    scores: Scores
    freeze: bool
    run_folder: RunFolder | None
    identity: dict[str, Any]
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Say whether the last checkpoint is so old that a kill would lose much."""
        return time.monotonic() - self.saved_at > CHECKPOINT_SECONDS

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that are trained, not their average."""
        if self.average is not None:
            return self.average.trained()
        return trained_weights(self.model, freeze=self.freeze)

    def keep_if_best(self, score: float) -> bool:
        """Keep the weights that count, if no epoch before scored as high; return whether it is."""
        at = self.progress
        if not score > at.best_score:  # nor NaN
            return False
        at.best_score, at.best_epoch, at.best_step = score, at.epoch, at.step
        counting = self.weights() if self.average is None else self.average.state_dict()
        self.best_weights = {name: tensor.clone() for name, tensor in counting.items()}
        return True

    def save(self) -> None:
        """Write a checkpoint in the main process; the others wait for it."""
        if self.run_folder is None:
            return
        self.saved_at = time.monotonic()
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = {
                "identity": self.identity,
                "progress": asdict(self.progress),
                "model": self.weights(),
                "average": self.average.state_dict() if self.average is not None else None,
                "optimizer": self.optimizer.optimizer.state_dict(),
                "schedule": self.schedule.updates,
                "scores": self.scores.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            self.run_folder.checkpoints.save(
                state, step=self.progress.step, best_step=self.progress.best_step
            )
        self.accelerator.wait_for_everyone()

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
        vars(self.progress).update(state["progress"])
        if self.progress.best_step >= 0:
            is_last = self.progress.best_step == steps[-1]
            best = state if is_last else checkpoints.load(self.progress.best_step)
            self.best_weights = best["model" if self.average is None else "average"]
            self.model.load_state_dict(self.best_weights, strict=False)
            # A kill may have come between a checkpoint and what is made from it. A model that is
            # there stays: that of a finished run has temperatures as well.
            self.run_folder.save_model(self.model, again=False)
            self.run_folder.write_metrics(self.progress.history)
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        self.schedule.go_to(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scores.load_state_dict(state["scores"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
