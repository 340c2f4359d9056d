"""Measuring a classifier: loss, and top-1 of both streams and of their sum."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from recurrent_attention._devices import Device
from recurrent_attention._modes import eval_view
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.heads import TwoStreamOutput
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.training.answers import Answers
from recurrent_attention.training.draws import (
    EpochOrder,
    loader_of,
    own_random_state,
    plainly,
)
from recurrent_attention.training.features import FeatureDataset, frozen_features
from recurrent_attention.training.networks import Heads, Streams
from recurrent_attention.training.processes import Resources, own_accelerate_state
from recurrent_attention.training.ranking import best_classes
from recurrent_attention.training.samples import Samples, ShownBoxes, samples_of
from recurrent_attention.training.scores import Scores, show_scores

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Evaluation(NamedTuple):
    """The result of `evaluate`: how well both streams answered, each picture counted once.

    Attributes:
        loss: of both streams, mean over the pictures.
        global_top1: share of pictures that the global stream gets right, in [0, 1].
        local_top1: the same for the local stream.
        fused_top1: the same for both together.
        num_images: pictures evaluated.
        images_per_second: whole loop, reading included.
        answers: of both streams to each picture, from which top-5, the mean over classes and the
            confusion matrix come.
    """

    loss: float
    global_top1: float
    local_top1: float
    fused_top1: float
    num_images: int
    images_per_second: float
    answers: Answers | None = None

    def numbers(self) -> dict[str, float]:
        """Return all figures by name, as `result.json` keeps them.

        Top-1, top-5 and the mean over classes of each stream are shares in [0, 1].
        """
        found = {name: value for name, value in self._asdict().items() if name != "answers"}
        if self.answers is not None:
            top5, means = self.answers.top(5), self.answers.mean_per_class()
            found |= {f"{stream}_top5": value for stream, value in top5.items()}
            found |= {f"{stream}_mean_per_class": value for stream, value in means.items()}
            found["calibration_error"] = self.answers.calibration_error()
        return found


@own_accelerate_state()
def evaluate(
    model: TwoStreamClassifier,
    data: TwoStreamDataset,
    *,
    batch_size: int = 32,
    precision: Precision = "fp32",
    frozen: bool = False,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure both streams and their sum in eval mode, and keep what they answered.

    Args:
        model: it stays as it is, but for the device.
        data: with `train=False`, so that every patch is where it should be; also torch's `Subset`
            or `ConcatDataset` of such data sets. Classes are found by name where the model has
            names.
        batch_size: pictures at once.
        precision: "fp32", or autocast to "bf16" or "fp16"; "auto" as in `Recipe`.
        frozen: go over cached features, as training with `freeze` does.
        cache_dir: of those features; None keeps them in memory.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show a bar.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if classes are not the model's, or `data` is empty or draws at random.
        TypeError: if `data` is no `TwoStreamDataset`.
    """
    samples = fixed_samples_of(model, data)
    resources = Resources(
        model,
        device=device,
        num_workers=num_workers,
        progress=progress,
        cache_dir=cache_dir,
        precision=precision,
    )
    with ready_to_answer(model, samples, resources, batch_size, frozen=frozen) as (network, loader):
        return run_evaluation(
            resources,
            network,
            loader,
            model.num_classes,
            TwoStreamLoss(),
            samples=samples,
            temperatures=model.temperatures,
        )


def fixed_samples_of(model: TwoStreamClassifier, data: Any) -> Samples:
    """Return the samples of a data set; refuse one that draws at random."""
    samples = samples_of(model, data, "data", stacklevel=4)
    if any(part.train for part in samples.parts):
        raise ValueError("Expected `data` with train=False, but it draws its patches at random.")
    return samples


@contextmanager
def ready_to_answer(
    model: TwoStreamClassifier,
    samples: Samples,
    resources: Resources,
    batch_size: int,
    *,
    frozen: bool,
) -> Iterator[tuple[nn.Module, DataLoader[Any]]]:
    """Yield a network in eval mode and a loader for it: of samples, or of their frozen features."""
    dataset: Samples | FeatureDataset = (
        frozen_features(model, samples, resources) if frozen else samples
    )
    order = EpochOrder(dataset, seed=0, shuffle=False)
    loader = loader_of(dataset, order, batch_size, 0 if frozen else resources.num_workers)
    with eval_view(model) as view, own_random_state():
        network: nn.Module = Heads(view) if frozen else Streams(view)
        yield resources.accelerator.prepare(network, loader)


def answer_all(
    resources: Resources, network: nn.Module, loader: DataLoader[Any], description: str
) -> Iterator[tuple[Any, Tensor, TwoStreamOutput, Tensor]]:
    """Go over `loader` once, in eval mode and without gradients.

    The loader yields (indices, images, patches, labels) or (indices, features, features, labels).
    Yield, of each batch of all processes, the bar, the indices, the output and the labels.
    """
    network.eval()
    # gather_for_metrics drops the pictures that pad the last batch of several processes.
    gather = resources.accelerator.gather_for_metrics
    bar = tqdm(
        plainly(loader),
        desc=description,
        total=len(loader),
        leave=False,
        disable=not resources.progress,
    )
    with torch.no_grad():
        for indices, first, second, labels, *_ in bar:
            output = network(first, second)
            gathered, labels = gather_output(gather, output, labels)
            yield bar, gather(indices), gathered, labels


def run_evaluation(
    resources: Resources,
    network: nn.Module,
    loader: DataLoader[Any],
    num_classes: int,
    loss_of: TwoStreamLoss,
    *,
    samples: Samples | None = None,
    temperatures: Sequence[float] | None = None,
    after_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Go over `loader` once, with a network that `resources` prepared; leave it in eval mode.

    With `samples`, what it is of, the answers are kept, with probabilities by the `temperatures`.
    What is returned is the same in every process.
    """
    scores = Scores(num_classes, resources.accelerator.device)
    kept: list[Tensor] = []  # (n ...): small tensors of each batch would lie between freed logits
    started = time.perf_counter()
    for bar, places, output, labels in answer_all(resources, network, loader, "evaluate"):
        scores.update(output, labels, loss_of)
        if samples is not None:
            best, places = best_classes(output, temperatures), places.cpu()
            kept = kept or [part.new_empty(len(samples), *part.shape[1:]) for part in best]
            for whole, part in zip(kept, best, strict=True):
                whole[places] = part
        show_scores(bar, scores)
        if after_batch is not None:
            after_batch()
    seconds = time.perf_counter() - started
    values = scores.compute()
    top1 = (values["global"], values["local"], values["fused"])
    answers = None if samples is None else _answers(samples, num_classes, kept)
    return Evaluation(
        values["loss"], *top1, scores.num_images, scores.num_images / seconds, answers
    )


def _answers(samples: Samples, num_classes: int, kept: Sequence[Tensor]) -> Answers:
    """Put `best_classes` of all pictures, in their order, with what they are of.

    Classes that only the model has are named by their index, as `predict` does.
    """
    return Answers(
        samples.names,
        (*samples.class_names, *map(str, range(len(samples.class_names), num_classes))),
        torch.tensor(samples.labels),
        kept[0],
        kept[1],
        ShownBoxes(samples),
        *kept[2:],
    )


def gather_output(
    gather: Callable[[Any], Any], output: TwoStreamOutput, labels: Tensor
) -> tuple[TwoStreamOutput, Tensor]:
    """Put the outputs and labels (b) of all processes together, by a method of an accelerator.

    Fields that are None are so in all of them.
    """
    found = {name: t for name, t in output._asdict().items() if t is not None}
    labels, found = gather((labels, found))
    return output._replace(**found), labels
