"""What an explanation holds, how images are explained, and how it becomes a figure."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurrent_attention._devices import pictures_on_cpu
from recurrent_attention._modes import eval_view
from recurrent_attention.inference.checks import (
    check_finite,
    check_picture,
    given_by_picture,
    is_one,
)
from recurrent_attention.inference.gradients import StreamMaps, check_differs, explain_views
from recurrent_attention.inference.inputs import Picture, StreamInputs, stream_inputs
from recurrent_attention.inference.target_class import Target, class_indices
from recurrent_attention.network import TwoStreamNetwork

NOTEBOOK_DPI = 100  # pixels per inch: the smallest letters are ten pixels high


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Explanation(StreamMaps):
    """Maps of what speaks for a class in images, for both streams of a `TwoStreamClassifier`.

    Cells are in logits: before its negative cells are cut to 0, a map sums to the gradient of the
    logit times the pooled features. Nothing is scaled, so steps, patches and images can be
    compared, each stream with itself.

    Attributes:
        step_maps: (b p t h w) what speaks for the target in each look at each patch; at least 0,
            unless there is a class `against`.
        global_map: (b h w) what speaks for it in the whole image, likewise.
        step_weights: (b p t) the temporal attention; sums to 1 over t.
        patch_weights: (b p) the learned attention over the patches, or None where they count alike.
        step_logits: (b p t k) what each step would answer by itself.
        logits: (b k) of both streams.
        global_logits: (b k) of the whole image.
        local_logits: (b k) of the patches.
        target: (b) the class explained, an index in [0, k).
        images: (b 3 h w) as given.
        patches: (b p 3 h w) as given.
        boxes: (b p 4) where the patches lie, xyxy in pixels of `images`, or None.
        pictures: b upright pictures that the images were made of, or None for each that was a
            tensor.
        cell_offsets: a function without arguments. It returns how far off the middle of their tiles
            the cells of the global and of the step maps look, in tiles (`measure_cell_offset`). A
            figure calls it; that takes a pass of each backbone, once a model.
        class_names: k names, or None.
        mean: per channel, with which the images were normalised.
        std: per channel.
        prefix_logits: (b p k) of both streams after 1, 2, ... p patches, or None.
        temperatures: of the model, by which these become probabilities, or None.
        against: (b) the class that the target is compared with, or None. With it the maps have no
            lower end: cells below 0 speak for this class.
    """

    def __repr__(self) -> str:
        shape = " ".join(map(str, self.step_maps.shape))
        return f"Explanation(step_maps=({shape}), target={self.target.tolist()})"

    def _repr_png_(self) -> bytes | None:
        """Return the figure of the first image for a notebook; None where matplotlib is absent."""
        batch = len(self.target)
        note = f"image 1 of {batch}: figure(1) draws the next" if batch > 1 else ""
        try:
            figure = self._drawn(0, None, note)
        except ImportError:
            return None
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=NOTEBOOK_DPI, format="png")
        return drawn.getvalue()

    def figure(self, index: int = 0, image: Any = None) -> Any:
        """Draw one image's explanation as a strip.

        It shows the picture with its boxes, the global map, and each patch with its maps. All maps
        share one colour scale: a cell has the colour of the logit that the class would get if the
        whole view looked like it. Probabilities of both streams and of the global stream are those
        of `predict`; what a look answers alone is not calibrated.

        Where the model takes several steps at each patch, a row is a patch and shows the map,
        the weight and the answer of each step; at most four patches are drawn. Where the model
        weighs its patches, a column is a patch and shows its map, its weight and its answer; at
        most ten are drawn, in the order of the looks if the model answers after each, and else
        heaviest first. A line under them shows how likely the class was after 0, 1, 2, ... looks,
        and where the model would have stopped. A note says where patches are left out.

        Args:
            index: which image of the batch, in [0, b).
            image: a `PIL.Image` to show, for example the picture at its own resolution and aspect
                ratio; it has to show the same scene. Default: `pictures[index]`, or where that is
                None `images[index]`.

        Returns:
            A `matplotlib.figure.Figure`, which no window and no global state knows of.

        Raises:
            ValueError: if there is no such image.
            ImportError: if matplotlib is not installed.
        """
        return self._drawn(index, image, "")

    def save(
        self, path: str | Path, index: int = 0, *, image: Any = None, dpi: float = 200
    ) -> None:
        """Write `figure(index, image)` to a file, whole or not at all.

        Args:
            path: of the file; its suffix names the format: .png, .pdf, .svg and what else
                matplotlib writes.
            index: which image of the batch, in [0, b).
            image: as in `figure`.
            dpi: pixels per inch of formats made of pixels.

        Raises:
            FileNotFoundError: if the folder does not exist.
            IsADirectoryError: if `path` is a folder.
            ValueError: if the suffix names no format, or there is no such image.
            ImportError: if matplotlib is not installed.
        """
        from recurrent_attention.inference.sheet import save_figure

        save_figure(self.figure(index, image), Path(path), dpi)

    def _drawn(self, index: int, image: Any, note: str) -> Any:
        """Draw a figure, with a note in its upper right corner."""
        batch = len(self.target)
        if not 0 <= index < batch:
            raise ValueError(f"Expected `index` to be in [0, {batch}), but got {index}.")
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "Expected matplotlib to draw figures with, but it is not installed: "
                "pip install 'recurrent-attention[train]'."
            ) from error
        from recurrent_attention.inference.figure import draw_explanation

        with torch.autocast(self.images.device.type, enabled=False):  # the caller's
            return draw_explanation(self, index, image, note)


@pictures_on_cpu()
def explain(
    model: TwoStreamNetwork,
    images: Picture | Iterable[Picture],
    *,
    boxes: Any = None,
    patches: Any = None,
    target: Target = None,
    against: Target = None,
) -> Explanation:
    """Explain images; `TwoStreamClassifier.explain` says what it takes and returns."""
    if not is_one(images):
        images = images if isinstance(images, Tensor) else list(images)  # type: ignore[arg-type]
        if len(images) == 0:
            raise ValueError("Expected `images` to hold at least one picture, but got none.")
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        return _with_figure(_explain_batch(model, images, boxes, patches, target, against))
    count = 1 if is_one(images) else len(images)  # type: ignore[arg-type]
    known = (count, model.num_classes, model.class_names)
    wanted = class_indices(target, *known)
    others = class_indices(against, *known, argument="against")
    if wanted is not None and others is not None:  # before a long list is begun
        check_differs(wanted, others, model.class_names, 0)
    parts: list[StreamMaps] = []
    with eval_view(model) as model, torch.inference_mode(False), torch.no_grad():
        done = 0
        for inputs in stream_inputs(model, images, boxes, patches):
            some = slice(done, done + len(inputs.images))
            classes = [None if one is None else one[some] for one in (wanted, others)]
            parts.append(_explain_some(model, inputs, *classes, first=done))
            done = some.stop
    return _with_figure(_joined(parts))


def _explain_batch(
    model: TwoStreamNetwork,
    images: Tensor,
    boxes: Any,
    patches: Any,
    target: Target,
    against: Target,
) -> StreamMaps:
    """Explain normalised images (b c h w) in one pass, checked and converted as `predict` does."""
    places = [f"[{index}]" for index in range(len(images))]
    for image, place in zip(images, places, strict=True):
        check_picture(image, place, in_chans=model.global_backbone.in_chans)
    ready = images.to(next(model.parameters()))
    if not isinstance(boxes, Tensor):
        boxes = _stacked(given_by_picture(boxes, None, places))
    if not isinstance(patches, Tensor):
        patches = _stacked(given_by_picture(None, patches, places))
    for name, given in (("boxes", boxes), ("patches", patches)):
        if given is not None:
            check_finite(given, f"`{name}`")
    if patches is not None and not patches.is_floating_point():
        model.local_backbone.check(patches.flatten(0, -4), name="patches")
    return explain_views(
        model,
        ready,
        None if patches is None else patches.to(ready),
        boxes=None if boxes is None else boxes.to(ready),
        target=target,
        against=against,
    )


def _stacked(given: list[Tensor | None]) -> Tensor | None:
    """Stack what the caller gave for each image; None is nothing for each."""
    entries = [entry for entry in given if entry is not None]
    if len(shapes := {tuple(entry.shape) for entry in entries}) > 1:
        raise ValueError(
            "Expected images of one explanation to have equally many patches of one size, but got "
            f"{', '.join(map(str, sorted(shapes)))}. Explain them one by one."
        )
    return torch.stack(entries) if entries else None


def _explain_some(
    model: TwoStreamNetwork,
    inputs: StreamInputs,
    target: Tensor | None,
    against: Tensor | None,
    *,
    first: int,
) -> StreamMaps:
    """Explain pictures of one form, and say where their patches lie in the images."""
    height, width = inputs.images.shape[2:]
    boxes = []
    for place, picture in zip(inputs.boxes, inputs.pictures, strict=True):
        if place is not None:
            wide, high = (width, height) if picture is None else picture.size
            boxes.append(place * torch.tensor([width / wide, height / high] * 2))
    found = explain_views(
        model,
        inputs.images,
        inputs.patches,
        boxes=torch.stack(boxes).to(inputs.images) if boxes else None,
        target=target,
        against=against,
        first=first,
    )
    return replace(found, pictures=tuple(inputs.pictures))


def _joined(parts: list[StreamMaps]) -> StreamMaps:
    """Put explanations together, one after the other."""
    first = parts[0]
    shapes = {(part.images.shape[1:], part.patches.shape[1:]) for part in parts}
    if len(shapes) > 1 or len({part.boxes is None for part in parts}) > 1:
        raise ValueError(
            "Expected pictures of one explanation to have equally many patches of one size, and "
            "all of them boxes or none, but they differ. Explain them one by one."
        )
    joined: dict[str, Any] = {"pictures": sum((part.pictures for part in parts), ())}
    for field in fields(StreamMaps):
        if isinstance(getattr(first, field.name), Tensor):
            joined[field.name] = torch.cat([getattr(part, field.name) for part in parts])
    return replace(first, **joined)


def _with_figure(found: StreamMaps) -> Explanation:
    return Explanation(**{field.name: getattr(found, field.name) for field in fields(StreamMaps)})
