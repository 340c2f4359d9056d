"""`explain` for pictures as people have them: files, PIL images, tensors, or a list of them."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recurrent_attention._modes import eval_view
from recurrent_attention.inference.checks import is_one
from recurrent_attention.inference.explanation import Explanation
from recurrent_attention.inference.gradients import explain_views
from recurrent_attention.inference.inputs import Picture, StreamInputs, stream_inputs
from recurrent_attention.inference.target_class import Target, class_indices

if TYPE_CHECKING:
    from recurrent_attention.classifier import TwoStreamClassifier


def explain(
    model: "TwoStreamClassifier",
    images: Picture | Iterable[Picture],
    patches: Any = None,
    *,
    boxes: Any = None,
    target: Target = None,
) -> Explanation:
    """Show what in pictures and their patches speaks for a class, step by step.

    Args:
        model: whose answer to explain, as in eval mode; it stays as it is.
        images: what `predict` takes (a path, a PIL image, an open file, an array, a tensor, or an
            iterable of them), or a normalised batch (b c h w).
        patches: ready patches as in `predict`, for a batch (b 3 h w) or (b p 3 h w). None: they are
            cut out at `boxes`, or where the model itself proposes, as `predict` does.
        boxes: xyxy: for a batch (b p 4) in pixels of the images, for pictures as in `predict`, in
            pixels of each.
        target: the class to explain: an index in [0, k), a name of `model.class_names`, or one for
            each picture; None for the class that both streams together answer.

    Returns:
        `Explanation` of all pictures, on the model's device; see `explain.explain_views` for what
        the maps are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is no picture, a shape, a number or a box does not fit, there is no
            such class, or the pictures differ in their number of patches.
        TypeError: if something has a type that is not taken.

    Example:
        >>> from PIL import Image
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", num_classes=7, image_size=64, patch_size=64)
        >>> model.explain(Image.new("RGB", (90, 60)), target=3)
        Explanation(step_maps=(1 1 10 2 2), target=[3])
    """
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        return explain_views(model, images, patches, boxes=boxes, target=target)
    if patches is not None and boxes is not None:
        raise ValueError(
            "Expected `patches` or `boxes` of pictures, but got both. Boxes are cut out of the "
            "pictures; leave out `patches`."
        )
    if not is_one(images):
        images = list(images)  # type: ignore[arg-type]
    if isinstance(images, list) and not images:
        raise ValueError("Expected `images` to hold at least one picture, but got none.")
    count = len(images) if isinstance(images, list) else 1
    wanted = class_indices(target, count, model.num_classes, model.class_names)
    parts: list[Explanation] = []
    with eval_view(model) as model, torch.inference_mode(False), torch.no_grad():
        given = patches if boxes is None else boxes
        done = 0
        for inputs in stream_inputs(model, images, given):
            some = slice(done, done + len(inputs.images))
            parts.append(_explain_some(model, inputs, None if wanted is None else wanted[some]))
            done = some.stop
    return _joined(parts)


def _explain_some(
    model: "TwoStreamClassifier", inputs: StreamInputs, target: Tensor | None
) -> Explanation:
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
    )
    return replace(found, pictures=tuple(inputs.pictures))


def _joined(parts: list[Explanation]) -> Explanation:
    """Put explanations together, one after the other."""
    first = parts[0]
    shapes = {(part.images.shape[1:], part.patches.shape[1:]) for part in parts}
    if len(shapes) > 1 or len({part.boxes is None for part in parts}) > 1:
        raise ValueError(
            "Expected pictures of one explanation to have equally many patches of one size, and "
            "all of them boxes or none, but they differ. Explain them one by one."
        )
    joined: dict[str, Any] = {"pictures": sum((part.pictures for part in parts), ())}
    for field in fields(Explanation):
        if isinstance(getattr(first, field.name), Tensor):
            joined[field.name] = torch.cat([getattr(part, field.name) for part in parts])
    return replace(first, **joined)
