"""Looks in sequence: one more box for the pictures that are not sure, until they are."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from recurrent_attention.attention import AnytimeAttention, AnytimeState
from recurrent_attention.inference.inputs import (
    PictureItem,
    of_one_form,
    patch_of,
    pictures_per_pass,
    with_boxes,
)
from recurrent_attention.network import TwoStreamNetwork

# At once, one patch of each in a pass; MobileNetV2 at 224 on 2 cores: 20 ms a patch, alone 30.
PICTURES_LOOKED_AT = 8


class Seen(NamedTuple):
    """What was found on one picture.

    Attributes:
        global_logits: (k) of the whole picture.
        local_logits: (k) of all looks, or None where there was none.
        boxes: (n 4) of the n looks, xyxy in pixels of the upright picture, or None where the caller
            gave ready patches.
        looks: n.
        after: logits of both streams, divided by no temperature: (n + 1 k) after 0, 1, ... n looks,
            or (1 k) after all of them where the model answers once.
    """

    global_logits: Tensor
    local_logits: Tensor | None
    boxes: Tensor | None
    looks: int
    after: Tensor


def temperature_after(temperatures: Sequence[float] | None, looks: int) -> float:
    """Return what logits after so many looks are divided by before the softmax.

    Args:
        temperatures: after 0, 1, 2, ... looks; the last counts for more of them. None is 1 for all.
        looks: how many.
    """
    if not temperatures:
        return 1.0
    return temperatures[min(looks, len(temperatures) - 1)]


def probabilities_after(
    logits: Tensor, temperatures: Sequence[float] | None, *, first: int = 0
) -> Tensor:
    """Turn answers into probabilities, each by the temperature of its number of looks.

    Args:
        logits: (... n k) after `first`, `first` + 1, ... looks.
        temperatures: as in `temperature_after`.
        first: looks of the first answer.

    Returns:
        (... n k), sums to 1 over k.
    """
    heats = [temperature_after(temperatures, first + n) for n in range(logits.shape[-2])]
    return (logits / rearrange(logits.new_tensor(heats), "n -> n 1")).softmax(-1)


class _Open:
    """A picture that is being looked at."""

    def __init__(self, item: PictureItem, global_logits: Tensor) -> None:
        self.place, self.item, self.global_logits = 0, item, global_logits
        self.state: AnytimeState | None = None
        self.after = [global_logits]
        self.local_logits: Tensor | None = None

    @property
    def looks(self) -> int:
        return len(self.after) - 1


def look_until_sure(
    model: TwoStreamNetwork,
    items: Iterable[PictureItem],
    confidence: float,
    most: int | None,
) -> Iterator[Seen]:
    """Look at one more box of each picture that is not sure yet; batches stay full.

    A picture whose global stream alone is sure is not looked at, and no box of it is proposed.
    Pictures that are at different looks go through the local stream together, and one that is sure
    makes room for the next.

    Args:
        model: in eval mode, with `patch_weighting="anytime"`.
        items: pictures, read as they are needed.
        confidence: in [0, 1]; enough for the best class.
        most: looks at a picture, at most; None takes all of its boxes.

    Yields:
        `Seen` of each picture, in their order.
    """
    room, waiting = PICTURES_LOOKED_AT, iter(items)
    opened: list[_Open] = []
    done: dict[int, Seen] = {}
    number, told, ended = 0, 0, False
    while not ended or opened:
        if not ended and len(opened) <= room // 2:
            arrived = list(islice(waiting, room - len(opened)))
            ended = len(opened) + len(arrived) < room
            new = _first_sights(model, arrived, number)
            number += len(new)
            sure, unsure = _by_certainty(model, new, confidence, most)
            done |= {one.place: _seen(one) for one in sure}
            opened += _with_boxes(model, unsure)
        if opened:
            _look_once(model, opened)
            sure, opened = _by_certainty(model, opened, confidence, most)
            done |= {one.place: _seen(one) for one in sure}
        while told in done:
            yield done.pop(told)
            told += 1


def _first_sights(model: TwoStreamNetwork, items: list[PictureItem], number: int) -> list[_Open]:
    """Let the global stream answer for pictures, the first of which is `number`."""
    groups = of_one_form(items, pictures_per_pass(model))
    found = [one for group in groups for one in _first_sight(model, group)]
    for place, one in enumerate(found, number):
        one.place = place
    return found


def _first_sight(model: TwoStreamNetwork, items: list[PictureItem]) -> list[_Open]:
    """Let the global stream answer for pictures of one form, in one pass."""
    parameter = next(model.parameters())
    views = torch.stack([item.view.to(parameter) for item in items])
    logits = model.classify_global(model.global_backbone(views)).cpu().double()
    return [_Open(item, row) for item, row in zip(items, logits, strict=True)]


def _with_boxes(model: TwoStreamNetwork, unsure: list[_Open]) -> list[_Open]:
    """Give pictures that have no boxes those that the model proposes, and return them."""
    groups = of_one_form([one.item for one in unsure], pictures_per_pass(model))
    items = [item for group in groups for item in with_boxes(model, group)]
    for one, item in zip(unsure, items, strict=True):
        one.item = item
    return unsure


def _by_certainty(
    model: TwoStreamNetwork, looked_at: list[_Open], confidence: float, most: int | None
) -> tuple[list[_Open], list[_Open]]:
    """Part pictures that are done, being sure or out of boxes, from those to look at again."""
    done: list[_Open] = []
    left: list[_Open] = []
    for one in looked_at:
        over = one.looks > 0 and one.looks == _boxes_of(one.item, most)
        (done if over or _is_sure(model, one, confidence) else left).append(one)
    return done, left


def _look_once(model: TwoStreamNetwork, opened: list[_Open]) -> None:
    """Take the next look at each picture, all of them in one pass where their sizes agree."""
    assert isinstance(model.attention, AnytimeAttention)
    parameter = next(model.parameters())
    patches = [patch_of(model, one.item, one.looks).to(parameter) for one in opened]
    shapes = {patch.shape for patch in patches}
    for shape in shapes:
        chosen = [i for i, patch in enumerate(patches) if patch.shape == shape]
        maps = model.local_backbone(torch.stack([patches[i] for i in chosen]))
        looks = reduce(maps, "b c h w -> b c", "mean")
        before = [
            opened[i].state or AnytimeState.before(look[None])
            for i, look in zip(chosen, looks, strict=True)
        ]
        state = model.attention.step(
            AnytimeState(*map(torch.cat, zip(*before, strict=True))), looks
        )
        answers = model.local_head(model.drop(state.pooled)).cpu().double()
        for number, (i, local) in enumerate(zip(chosen, answers, strict=True)):
            one, here = opened[i], slice(number, number + 1)
            one.state = AnytimeState(*(part[here] for part in state))
            one.local_logits = local
            one.after.append(torch.add(one.global_logits, local, alpha=model.fusion_weight))


def _boxes_of(item: PictureItem, most: int | None) -> int:
    given = item.patches if item.boxes is None else item.boxes
    assert given is not None
    return len(given) if most is None else min(most, len(given))


def _is_sure(model: TwoStreamNetwork, one: _Open, confidence: float) -> bool:
    odds = probabilities_after(one.after[-1][None], model.temperatures, first=one.looks)
    return float(odds.max()) >= confidence


def _seen(one: _Open) -> Seen:
    boxes = None if one.item.boxes is None else one.item.boxes[: one.looks]
    if one.item.patches is None and boxes is None:
        boxes = torch.empty(0, 4)
    return Seen(one.global_logits, one.local_logits, boxes, one.looks, torch.stack(one.after))
