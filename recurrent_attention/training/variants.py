"""What an ablation compares: local streams, orders of the boxes, and controls without parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_area

from recurrent_attention.data import Pictures
from recurrent_attention.training.averaged_views import VIEW_SETS, Averaged
from recurrent_attention.training.draws import seed_of

RUN_FILES = ("result.json", "answers.json")  # that each finished run of an ablation has
Order = Literal["best", "largest", "smallest", "scattered", "whole"]
Reading = Literal["fused", "global"] | Averaged


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to build and train a classifier, as an ablation names it.

    Attributes:
        name: in tables and folders.
        what: it is, in a few words.
        settings: arguments of `train` that differ from the others'.
        order: of the proposed boxes: best, largest or smallest first; or, instead of them,
            "scattered", boxes of the same sizes anywhere, or "whole", the whole picture.
        wider: side of the whole pictures, as a multiple of the one that is asked for.
        reads: what counts as its answer: that of both streams, of the global stream alone, or the
            mean of the global stream's over several views (`averaged_views`).
        trained_as: name of the variant that is trained, where another reading of it is wanted.
    """

    name: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    order: Order = "best"
    wider: float = 1.0
    reads: Reading = "fused"
    trained_as: str | None = None

    @property
    def averaged(self) -> Averaged | None:
        """Over which views the global stream's answer is averaged, if it is."""
        return next((averaged for averaged in VIEW_SETS if averaged == self.reads), None)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what a finished run of it has, as `ablate` reads them."""
        return RUN_FILES if self.averaged is None else (*RUN_FILES, f"{self.averaged}.json")

    def run_in(self, folder: Path, seed: int) -> Path:
        """Return the folder of its run with a seed, in the folder of an ablation."""
        return folder / (self.trained_as or self.name) / f"seed-{seed}"


_LOOKS: dict[str, Any] = {"patch_weighting": "anytime"}
_ONE_PATCH: dict[str, Any] = {"num_patches": 1, "fusion_weight": 1.0}
_PAPER: dict[str, Any] = _ONE_PATCH | {"patch_weighting": "equal"}
_WHOLE: dict[str, Any] = _ONE_PATCH | {"patch_weighting": "linear"}
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="anytime", what="looks that add up, an answer after each",
                settings=_LOOKS),
        Variant(name="linear", what="all looks at once, weighted by a linear score",
                settings={"patch_weighting": "linear"}),
        Variant(name="recurrent", what="all looks at once, weighted by an LSTM over them",
                settings={"patch_weighting": "recurrent"}),
        Variant(name="paper", what="the paper's head: one patch, looked at ten times",
                settings=_PAPER | {"num_steps": 10}),
        Variant(name="one-step", what="the paper's head, with one look",
                settings=_PAPER | {"num_steps": 1}),
        Variant(name="largest-first", what="anytime, the largest boxes first", order="largest",
                settings=_LOOKS),
        Variant(name="smallest-first", what="anytime, the smallest boxes first", order="smallest",
                settings=_LOOKS),
        Variant(name="scattered", what="control: anytime, boxes of the same sizes at random places",
                order="scattered", settings=_LOOKS),
        Variant(name="two-networks", what="control: a second network on the whole picture",
                settings=_WHOLE, order="whole"),
        Variant(name="ten-crop", what="control: the global stream alone, averaged over ten crops",
                settings=_WHOLE, order="whole", reads="ten-crop", trained_as="two-networks"),
        Variant(name="mirrored", what="control: the global stream alone, averaged over the picture "
                "and its mirror image", settings=_WHOLE, order="whole", reads="mirrored",
                trained_as="two-networks"),
        Variant(name="two-scales", what="control: the whole picture at twice the side, and a "
                "second network on it at the side of a patch", settings=_WHOLE, order="whole",
                wider=2.0),
        Variant(name="larger", what="control: the global stream alone, at twice the side",
                settings=_WHOLE, order="whole", wider=2.0, reads="global",
                trained_as="two-scales"),
        Variant(name="largest", what="control: the global stream alone, at three times the side",
                settings=_WHOLE, order="whole", wider=3.0, reads="global"),
    )
}  # fmt: skip


def ordered(boxes: Mapping[str, Tensor], pictures: Pictures, order: Order) -> dict[str, Tensor]:
    """Put the boxes of pictures into an order.

    Args:
        boxes: relative file name to (n 4), best first, xyxy in pixels.
        pictures: whose boxes to take.
        order: as in `Variant`; of boxes alike in size the better comes first.

    Returns:
        The same, in that order; for "whole" the whole picture as the only box. Where a box is
        scattered to depends on the name of the picture alone.
    """
    found = {}
    for index, name in enumerate(pictures.names):
        if order == "whole":
            width, height = pictures.size(index)
            found[name] = Tensor([[0.0, 0.0, width, height]])
        elif order == "best":
            found[name] = boxes[name]
        elif order == "scattered":
            found[name] = _scattered(boxes[name], name, pictures.size(index))
        else:
            largest = order == "largest"
            areas = box_area(boxes[name])
            found[name] = boxes[name][areas.argsort(descending=largest, stable=True)]
    return found


def _scattered(boxes: Tensor, name: str, size: tuple[int, int]) -> Tensor:
    """Move boxes (n 4) to random places of their picture."""
    generator = torch.Generator().manual_seed(seed_of("scattered", name))
    sides, most = boxes[:, 2:] - boxes[:, :2], torch.tensor(size)
    corners = torch.rand(len(boxes), 2, generator=generator) * (most - sides)
    return torch.cat([corners, torch.minimum(corners + sides, most)], 1)
