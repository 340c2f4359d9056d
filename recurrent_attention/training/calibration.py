"""Probabilities that mean what they say: a temperature fitted on pictures that were held out."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from recurrent_attention._devices import Device
from recurrent_attention._settings import TEMPERATURES
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.inference.checks import check_answers
from recurrent_attention.training.evaluation import (
    Precision,
    answer_all,
    fixed_samples_of,
    ready_to_answer,
)
from recurrent_attention.training.processes import Resources, own_accelerate_state

MOST_UPDATES = 100  # of Newton's method, which needs about ten
MOST_LOGITS = 2**25  # that are kept, 128 MB: two temperatures need no more
CHUNK = 2**20  # logits that are computed with at once, in float64


class Calibration(NamedTuple):
    """The result of `calibrate`.

    Attributes:
        temperatures: of the answers without a look, and with looks.
        loss_before: cross-entropy of all answers before, mean over pictures and numbers of looks.
        loss_after: the same with the temperatures.
    """

    temperatures: tuple[float, ...]
    loss_before: float
    loss_after: float


@own_accelerate_state()
def calibrate(
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
) -> Calibration:
    """Fit the model's `temperatures`, so that answers of probability 0.9 are right 9 times in 10.

    A temperature changes no answer, but its probability, and so where `predict` stops
    (`confidence`). There is one temperature for the global stream's answer and one for those after
    any number of looks, each with the least cross-entropy (Guo et al., 2017, arXiv:1706.04599).
    Of data with more logits than `MOST_LOGITS`, evenly spaced pictures are taken: of 10,000 classes
    and ten looks 305 pictures.

    Args:
        model: gets `temperatures`; nothing else changes, but for the device.
        data: pictures that the model was not trained on, with train=False; validation data will do.
        batch_size: as in `evaluate`, and so are the others.
        precision: as there.
        frozen: as there.
        cache_dir: as there.
        device: as there.
        num_workers: as there.
        progress: as there.

    Returns:
        `Calibration`.

    Raises:
        ValueError: as in `evaluate`, or if an answer is not finite.
        TypeError: as in `evaluate`.
    """
    samples = fixed_samples_of(model, data)
    answers_of_each = 1 + max(part.num_patches for part in samples.parts)
    step = math.ceil(len(samples) * answers_of_each * model.num_classes / MOST_LOGITS)
    if step > 1:
        thinned = [Subset(part, range(0, len(part), step)) for part in samples.parts]
        samples = fixed_samples_of(model, ConcatDataset(thinned))
    resources = Resources(
        model,
        device=device,
        num_workers=num_workers,
        progress=progress,
        cache_dir=cache_dir,
        precision=precision,
    )
    first, later, targets = [], [], []
    with ready_to_answer(model, samples, resources, batch_size, frozen=frozen) as (network, loader):
        for _, _, output, labels in answer_all(resources, network, loader, "calibrate"):
            by_looks = output.prefix_logits
            by_looks = output.logits[:, None] if by_looks is None else by_looks
            first.append(rearrange(output.global_logits, "b k -> b 1 k").cpu())
            later.append(by_looks.cpu())
            targets.append(labels.cpu())
    labels = torch.cat(targets)
    answers = [torch.cat(first), torch.cat(later)]
    check_answers(*answers)
    found = tuple(temperature_of(logits, labels) for logits in answers)
    before, after = (
        sum(_loss(logits, labels, heat) for logits, heat in zip(answers, heats, strict=True)) / 2
        for heats in ((1.0, 1.0), found)
    )
    model.temperatures = found
    return Calibration(found, before, after)


def _chunks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield answers (m k) in float64 and their classes (m), few at a time, of (n p k) and (n)."""
    each = repeat(labels, "n -> (n p)", p=logits.shape[1])
    rows = rearrange(logits, "n p k -> (n p) k")
    size = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), size):
        yield rows[start : start + size].double(), each[start : start + size]


def _loss(logits: Tensor, labels: Tensor, heat: float) -> float:
    """Return the cross-entropy of answers (n p k) to n pictures at a temperature."""
    total = sum(
        float(F.cross_entropy(rows / heat, classes, reduction="sum"))
        for rows, classes in _chunks(logits, labels)
    )
    return total / logits[..., 0].numel()


def _derivatives(
    logits: Tensor, labels: Tensor, inverse: float, smoothing: float
) -> tuple[float, float]:
    """Differentiate the smoothed cross-entropy twice by the inverse of the temperature.

    With p = softmax(inverse * z), the first is the mean of z under p less that under the target,
    the second the variance of z under p; both are summed over the answers.
    """
    slope = curvature = 0.0
    for rows, classes in _chunks(logits, labels):
        odds = (inverse * rows).softmax(-1)
        means = einsum(odds, rows, "m k, m k -> m")
        own = rows.gather(1, classes[:, None])[:, 0]
        targets = (1 - smoothing) * own + smoothing * rows.mean(1)
        slope += float((means - targets).sum())
        curvature += float(einsum(odds, (rows - means[:, None]).square(), "m k, m k ->"))
    return slope, curvature


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature of the least cross-entropy: convex in its inverse.

    Few pictures that are all answered right do not make a model certain: as in Platt scaling, one
    in n + 2 is taken to be of any class.

    Args:
        logits: (n p k), p answers to each of n pictures.
        labels: (n) their classes.

    Returns:
        The temperature, in `TEMPERATURES`.
    """
    smoothing = 1 / (len(labels) + 2)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]  # of the inverse
    if _derivatives(logits, labels, low, smoothing)[0] >= 0:  # where most answers are wrong
        return TEMPERATURES[1]
    if _derivatives(logits, labels, high, smoothing)[0] <= 0:
        return TEMPERATURES[0]
    inverse = 1.0
    for _ in range(MOST_UPDATES):  # Newton's method, within a bracket
        slope, curvature = _derivatives(logits, labels, inverse, smoothing)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        last, inverse = inverse, inverse - slope / curvature if curvature else 0.0
        if not low < inverse < high:
            inverse = math.sqrt(low * high)
        if abs(inverse - last) <= 1e-12 * last:
            break
    return 1 / inverse
