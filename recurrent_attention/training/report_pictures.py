"""Pictures of a report, as URLs that hold them."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.inference.sheet import pixels_of_figure
from recurrent_attention.training.answers import Answers
from recurrent_attention.training.curves import curves_figure, looks_figure
from recurrent_attention.training.fitting import FitResult

THUMBNAIL = 184  # pixels, shown at half of that
DOTS_PER_INCH = 110


def thumbnail_as_url(data: TwoStreamDataset, index: int) -> str:
    """Return a small square of a picture's middle."""
    picture = _as_image(data.pictures.open(index)).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return _url(square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def explained_as_url(
    model: TwoStreamClassifier, data: TwoStreamDataset, answers: Answers, index: int
) -> str:
    """Return the figure of what speaks for the answer to a picture, in the boxes evaluated.

    A wrong answer is compared with the right one.
    """
    opened: Any = data.pictures.open(index)
    target = int(answers.classes[index, -1, 0])
    label = int(answers.labels[index])
    against = None if label == target else label
    explained = model.explain(opened, boxes=answers.boxes[index], target=target, against=against)
    shown = opened if isinstance(opened, Image.Image) else None
    return _url(pixels_of_figure(explained.figure(image=shown), DOTS_PER_INCH))


def curves_as_url(fitted: FitResult) -> str:
    """Return loss and accuracy over the epochs."""
    figure = curves_figure(fitted.history, fitted.best_epoch, "validation")
    return _url(pixels_of_figure(figure, DOTS_PER_INCH))


def looks_as_url(answers: Answers) -> str:
    """Return the accuracy over the looks."""
    return _url(pixels_of_figure(looks_figure(answers), DOTS_PER_INCH))


def _as_image(opened: Any) -> Image.Image:
    if isinstance(opened, Image.Image):
        return opened
    pixels = np.asarray(opened)
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[..., 0]  # of other channels the first is shown
    return Image.fromarray(pixels)


def _url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
