"""What a classifier says about a picture, for people: names and probabilities."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurrent_attention._errors import printable
from recurrent_attention._modes import eval_view
from recurrent_attention.inference.checks import is_one
from recurrent_attention.inference.inputs import Picture, stream_inputs
from recurrent_attention.inference.notebook import table_of
from recurrent_attention.network import TwoStreamNetwork


class Prediction(NamedTuple):
    """What the model says about one picture, the best class first; plain Python values.

    Attributes:
        class_names: of the n best classes; their indices as text where the model has no names.
        probabilities: n, softmax over all k classes of the fused logits, in [0, 1].
        indices: n class indices in [0, k).
        global_class: the name that the global stream alone would give.
        local_class: the name that the local stream alone would give.
        boxes: p boxes (x0, y0, x1, y1) where the local stream looked, in pixels of the upright
            picture, or of the tensor given; None with ready patches.

    Example:
        >>> prediction = Prediction(("wren", "finch"), (0.91, 0.09), (7, 2), "wren", "owl", None)
        >>> print(prediction)
        wren    91.0 %
        finch    9.0 %
        global stream alone: wren, local stream alone: owl
        >>> prediction
        <Prediction wren 91.0 %, finch 9.0 %>
    """

    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]
    global_class: str
    local_class: str
    boxes: tuple[tuple[float, float, float, float], ...] | None

    def __str__(self) -> str:
        names = [printable(name) for name in self.class_names]
        width = max(map(len, names))
        lines = [
            f"{name:<{width}}  {100 * probability:5.1f} %"
            for name, probability in zip(names, self.probabilities, strict=True)
        ]
        lines.append(
            f"global stream alone: {printable(self.global_class)}, local stream alone: "
            f"{printable(self.local_class)}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        best = ", ".join(
            f"{printable(name)} {100 * probability:.1f} %"
            for name, probability in zip(self.class_names, self.probabilities, strict=True)
        )
        return f"<Prediction {best}>"

    def _repr_html_(self) -> str:
        """Return a table with bars, which a notebook shows instead of the plain line."""
        return table_of(
            zip(self.class_names, self.probabilities, strict=True),
            (
                ("global stream alone", self.global_class),
                ("local stream alone", self.local_class),
            ),
        )


def predict(
    model: TwoStreamNetwork,
    images: Picture | Iterable[Picture],
    *,
    boxes: Any,
    patches: Any,
    top_k: int,
) -> Prediction | list[Prediction]:
    """Name what is on images; `TwoStreamClassifier.predict` says what it takes and returns."""
    try:
        top_k = operator.index(top_k)
    except TypeError:
        raise TypeError(f"Expected `top_k` to be a whole number, but got {top_k!r}.") from None
    if top_k < 1:
        raise ValueError(f"Expected `top_k` to be at least 1, but got {top_k}.")
    predictions = []
    # Not inference mode: some timm models keep tensors of a pass, which training could not use.
    with eval_view(model) as model, torch.inference_mode(False), torch.no_grad():
        for inputs in stream_inputs(model, images, boxes, patches):
            output = model(inputs.images, inputs.patches)
            streams = (output.logits, output.global_logits, output.local_logits)
            rows = zip(*(logits.cpu().double() for logits in streams), inputs.boxes, strict=True)
            predictions += [_prediction(model.class_names, top_k, *row) for row in rows]
    return predictions[0] if is_one(images) else predictions


def _prediction(
    class_names: Sequence[str] | None,
    top_k: int,
    logits: Tensor,
    global_logits: Tensor,
    local_logits: Tensor,
    boxes: Tensor | None,
) -> Prediction:
    """Put logits (k) of the two streams together, and apart, into words."""
    names = class_names or [str(index) for index in range(len(logits))]
    # Stable, so that of equal classes the first comes first.
    indices = logits.sort(descending=True, stable=True).indices[:top_k]
    return Prediction(
        tuple(names[index] for index in indices.tolist()),
        tuple(logits.softmax(0)[indices].tolist()),
        tuple(indices.tolist()),
        names[int(global_logits.argmax())],
        names[int(local_logits.argmax())],
        None if boxes is None else tuple(map(tuple, boxes.tolist())),
    )
