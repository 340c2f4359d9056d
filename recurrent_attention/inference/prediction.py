"""What a classifier says about a picture, for people: names and probabilities."""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from recurrent_attention._arguments import real_number, whole_number
from recurrent_attention._devices import pictures_on_cpu
from recurrent_attention._errors import printable
from recurrent_attention._modes import eval_view
from recurrent_attention.inference.checks import check_answers, is_one
from recurrent_attention.inference.inputs import Picture, StreamInputs, read_items, stream_inputs
from recurrent_attention.inference.looking import Seen, look_until_sure, probabilities_after
from recurrent_attention.inference.notebook import table_of
from recurrent_attention.network import TwoStreamNetwork


class Prediction(NamedTuple):
    """The answer to one picture, the best class first, in plain Python values.

    Attributes:
        class_names: of the n best classes; their indices as text where the model has no names.
        probabilities: n, softmax over all k classes of the fused logits, in [0, 1].
        indices: n class indices in [0, k).
        global_class: the answer of the global stream alone.
        local_class: the answer of the local stream alone; None where it did not look.
        boxes: p boxes (x0, y0, x1, y1) where the local stream looked, in pixels of the upright
            picture, or of the tensor given; None with ready patches.
        after: with `patch_weighting="anytime"` the best class after 0, 1, 2, ... looks and its
            probability, the last of which is the answer; else empty. `looks` is their number.

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
    local_class: str | None
    boxes: tuple[tuple[float, float, float, float], ...] | None
    after: tuple[tuple[str, float], ...] = ()

    @property
    def looks(self) -> int | None:
        """Number of looks that were taken; None where the model has no answer after each."""
        return len(self.after) - 1 if self.after else None

    def __str__(self) -> str:
        names = [printable(name) for name in self.class_names]
        width = max(map(len, names))
        lines = [
            f"{name:<{width}}  {100 * probability:5.1f} %"
            for name, probability in zip(names, self.probabilities, strict=True)
        ]
        local = "not asked" if self.local_class is None else printable(self.local_class)
        lines.append(
            f"global stream alone: {printable(self.global_class)}, local stream alone: {local}"
        )
        if self.looks is not None:
            lines.append(f"{self.looks} look{'' if self.looks == 1 else 's'}")
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
                ("local stream alone", self.local_class or "not asked"),
            ),
        )


@pictures_on_cpu()
def predict(
    model: TwoStreamNetwork,
    images: Picture | Iterable[Picture],
    *,
    boxes: Any,
    patches: Any,
    top_k: int,
    looks: int | None = None,
    confidence: float | None = None,
) -> Prediction | list[Prediction]:
    """Name what is on images; `TwoStreamClassifier.predict` says what it takes and returns."""
    try:
        top_k = operator.index(top_k)
    except TypeError:
        raise TypeError(f"Expected `top_k` to be a whole number, but got {top_k!r}.") from None
    if top_k < 1:
        raise ValueError(f"Expected `top_k` to be at least 1, but got {top_k}.")
    if looks is not None:
        looks = whole_number(looks, "looks")
    if confidence is not None:
        _check_confidence(model, confidence)
    # Not inference mode: some timm models keep tensors of a pass, which training could not use.
    with eval_view(model) as model, torch.inference_mode(False), torch.no_grad():
        if confidence is None:
            found = _looked_at_once(
                model, stream_inputs(model, images, boxes, patches, looks=looks)
            )
        else:
            items = read_items(model, images, boxes, patches)
            found = look_until_sure(model, items, confidence, looks)
        predictions = [_prediction(model, top_k, seen) for seen in found]
    return predictions[0] if is_one(images) else predictions


def _check_confidence(model: TwoStreamNetwork, confidence: float) -> None:
    real_number(confidence, "confidence", 0, 1)
    if model.patch_weighting != "anytime":
        raise ValueError(
            "Expected a model with patch_weighting='anytime', which answers after each look, to "
            f"stop when it is sure, but got {model.patch_weighting!r}. Pass confidence=None."
        )


def _looked_at_once(model: TwoStreamNetwork, inputs: Iterable[StreamInputs]) -> Iterator[Seen]:
    """Look at all patches of some pictures in one pass."""
    for some in inputs:
        output = model(some.images, some.patches)
        streams = (output.logits, output.global_logits, output.local_logits)
        rows = zip(*(logits.cpu().double() for logits in streams), strict=True)
        for place, (fused, of_global, of_local) in enumerate(rows):
            after = fused[None]
            if output.prefix_logits is not None:
                by_looks = output.prefix_logits[place].cpu().double()
                after = torch.cat([of_global[None], by_looks])
            yield Seen(of_global, of_local, some.boxes[place], some.patches.shape[1], after)


def _prediction(model: TwoStreamNetwork, top_k: int, seen: Seen) -> Prediction:
    """Put what was found on a picture into words."""
    logits = seen.after[-1]
    check_answers(seen.after, seen.global_logits, seen.local_logits)
    names = model.class_names or [str(index) for index in range(len(logits))]
    # Stable, so that of equal classes the first comes first.
    indices = logits.sort(descending=True, stable=True).indices[:top_k]
    first = seen.looks + 1 - len(seen.after)
    odds = probabilities_after(seen.after, model.temperatures, first=first)
    after = []
    if model.patch_weighting == "anytime":
        shares, best = odds.max(1)
        after = [(names[i], share) for i, share in zip(best.tolist(), shares.tolist(), strict=True)]
    return Prediction(
        tuple(names[index] for index in indices.tolist()),
        tuple(odds[-1, indices].tolist()),
        tuple(indices.tolist()),
        names[int(seen.global_logits.argmax())],
        None if seen.local_logits is None else names[int(seen.local_logits.argmax())],
        None if seen.boxes is None else tuple(map(tuple, seen.boxes.tolist())),
        tuple(after),
    )
