"""Probabilities that mean what they say: a temperature fitted on pictures that were held out."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from recurrent_attention._devices import Device
from recurrent_attention._settings import TEMPERATURES
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.inference.checks import check_answers
from recurrent_attention.training.evaluation import (
    Precision,
    answer_all,
    fixed_views_of,
    ready_to_answer,
)
from recurrent_attention.training.processes import Resources, own_accelerate_state

MOST_UPDATES = 100  # of L-BFGS, which needs about ten


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
    views = fixed_views_of(model, data)
    resources = Resources(
        model,
        device=device,
        num_workers=num_workers,
        progress=progress,
        cache_dir=cache_dir,
        precision=precision,
    )
    first, later, targets = [], [], []
    with ready_to_answer(model, views, resources, batch_size, frozen=frozen) as (network, loader):
        for _, _, output, labels in answer_all(resources, network, loader, "calibrate"):
            by_looks = output.prefix_logits
            by_looks = output.logits[:, None] if by_looks is None else by_looks
            first.append(rearrange(output.global_logits, "b k -> b 1 k").cpu().double())
            later.append(by_looks.cpu().double())
            targets.append(labels.cpu())
    labels = torch.cat(targets)
    answers = [torch.cat(first), torch.cat(later)]
    check_answers(*answers)
    found = tuple(temperature_of(logits, labels) for logits in answers)
    scaled = [logits / heat for logits, heat in zip(answers, found, strict=True)]
    before, after = (
        sum(float(_loss(logits, labels)) for logits in some) / len(some)
        for some in (answers, scaled)
    )
    model.temperatures = found
    return Calibration(found, before, after)


def _loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of answers (n p k) to n pictures."""
    each = repeat(labels, "n -> (n p)", p=logits.shape[1])
    rows = rearrange(logits, "n p k -> (n p) k")
    return F.cross_entropy(rows, each, label_smoothing=smoothing)


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature of the least cross-entropy: convex in its inverse.

    Few pictures that are all answered right do not make a model certain: as in Platt scaling, one
    in n + 2 is taken to be of any class.

    Args:
        logits: (n p k) float64, p answers to each of n pictures.
        labels: (n) their classes.

    Returns:
        The temperature, in `TEMPERATURES`.
    """
    low, high = TEMPERATURES
    smoothing = 1 / (len(labels) + 2)
    with torch.inference_mode(False), torch.enable_grad():
        logits, labels = logits.clone(), labels.clone()  # the caller's inference mode made them
        inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [inverse], max_iter=MOST_UPDATES, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = _loss(logits * inverse, labels, smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    best = float(inverse.detach())
    # Where most answers are wrong the inverse is negative.
    return min(max(1 / best, low), high) if best > 0 else high
