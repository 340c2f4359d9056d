"""One page that shows how good a model is: a single HTML file, which opens without a network."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import timm
import torch

from recurrent_attention._errors import printable
from recurrent_attention._files import whole_file
from recurrent_attention._version import __version__
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.inference.target_class import readable
from recurrent_attention.training.answers import KEPT, STREAMS, Answers
from recurrent_attention.training.evaluation import Evaluation
from recurrent_attention.training.fitting import FitResult
from recurrent_attention.training.report_pictures import (
    curves_as_url,
    explained_as_url,
    looks_as_url,
    thumbnail_as_url,
)

PAIRS, SHOWN_OF_PAIR = 8, 3
CLASSES_SHOWN = 10  # the others are behind a click
WORST, GOOD = 4, 3
STREAM_NAMES = {"fused": "both", "global": "global stream", "local": "local stream"}


def write_report(
    path: str | Path,
    model: TwoStreamClassifier,
    data: TwoStreamDataset,
    found: Evaluation,
    *,
    title: str = "How good is the model?",
    fitted: FitResult | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write an evaluation as a page: figures, mistakes, and explained pictures.

    Args:
        path: of the .html file, which is written whole or not at all.
        model: that was evaluated; it stays as it is.
        data: that it was evaluated on.
        found: what `evaluate` returned for them.
        title: of the page.
        fitted: what `fit` returned, for the curves; None leaves them out.
        settings: groups of settings to list, by their headings.

    Raises:
        ValueError: if `found` holds no answers, or those to other pictures.
        TypeError: if `data` is no `TwoStreamDataset`; a `Subset` of one has no pictures to show.
        OSError: if the file cannot be written.
    """
    if not isinstance(data, TwoStreamDataset):
        raise TypeError(
            f"Expected `data` to be a TwoStreamDataset, but got {type(data).__name__}. Choose "
            "pictures before the data set is made: pictures.subset(indices)."
        )
    answers = found.answers
    if answers is None or answers.names != data.pictures.names:
        raise ValueError(
            "Expected `found` to be what evaluate(model, data) returned for these pictures, but "
            f"got answers to {'none' if answers is None else 'others'}."
        )
    numbers = found.numbers()
    own: dict[str, Mapping[str, Any]] = dict(settings or {})
    own["model"] = {k: v for k, v in model.config.items() if k != "class_names"}
    own["versions"] = {
        "recurrent-attention": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
    page = _template().render(
        title=title,
        subtitle=_subtitle(model, answers),
        headline=_headline(numbers, answers),
        parts=f"{data.num_patches} parts" if data.num_patches > 1 else "one part",
        num_pictures=found.num_images,
        streams=[
            {
                "name": name,
                "top1": _percent(numbers[f"{stream}_top1"]),
                "top5": _percent(numbers[f"{stream}_top5"]),
                "mean": _percent(numbers[f"{stream}_mean_per_class"]),
            }
            for stream, name in STREAM_NAMES.items()
        ],
        spread=_spread(found.fused_top1, found.num_images),
        looks=_looks(answers),
        curves=None if fitted is None else curves_as_url(fitted),
        pairs=_pairs(data, answers),
        classes=_classes(answers),
        explained=_explained(model, data, answers),
        classes_shown=CLASSES_SHOWN,
        settings=[
            {"title": name, "rows": [(k, printable(v)) for k, v in group.items()]}
            for name, group in own.items()
        ],
    )
    with whole_file(Path(path)) as beside:
        beside.write_text(page, encoding="utf-8")


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("recurrent_attention.training", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    return environment.get_template("report.html.jinja")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _subtitle(model: TwoStreamClassifier, answers: Answers) -> str:
    return (
        f"{model.settings.backbone}, {len(answers.class_names)} classes, whole pictures at "
        f"{model.image_size} px and parts at {model.patch_size} px, measured on {len(answers)} "
        "pictures"
    )


def _headline(numbers: Mapping[str, float], answers: Answers) -> list[dict[str, str]]:
    gain = 100 * (numbers["fused_top1"] - numbers["global_top1"])
    right = answers.classes[:, :, 0] == answers.labels[:, None]
    both, alone = (right[:, STREAMS.index(stream)].double() for stream in ("fused", "global"))
    error = 100 * float((both - alone).std(correction=0)) / len(answers) ** 0.5
    few = len(answers.class_names) <= KEPT  # all are among the best five
    last, name = ("mean_per_class", "mean over classes") if few else ("top5", "top-5")
    return [
        {"value": f"{_percent(numbers['fused_top1'])} %", "name": "top-1, both streams"},
        {"value": f"{_percent(numbers['global_top1'])} %", "name": "top-1, whole picture alone"},
        {
            "value": f"{gain:+.1f} ± {error:.1f}",
            "name": "points by looking at parts, with its standard error on the same pictures",
        },
        {"value": f"{_percent(numbers[f'fused_{last}'])} %", "name": f"{name}, both streams"},
    ]


def _spread(share: float, count: int) -> str:
    """Say how far chance alone moves a share of so many pictures."""
    error = 100 * (share * (1 - share) / count) ** 0.5
    return (
        f"With {count} pictures, chance moves each of these figures by about {error:.1f} points "
        "(one standard error)."
    )


def _looks(answers: Answers) -> dict[str, str] | None:
    """Say what more looks bring; None for a model that answers once."""
    if answers.classes_after is None:
        return None
    after, stopped = answers.top1_after(), answers.stopping(0.9)
    text = (
        f"All {len(after) - 1} looks: {_percent(after[-1])} %. Stopping at a probability of 0.9: "
        f"{_percent(stopped.top1)} % with {stopped.mean_looks:.1f} looks. A probability is off by "
        f"{_percent(answers.calibration_error())} points on average; if that is much, stopping at "
        "0.9 does not mean to be right in 9 of 10 pictures."
    )
    return {"text": text, "image": looks_as_url(answers)}


def _pairs(data: TwoStreamDataset, answers: Answers) -> list[dict[str, Any]]:
    labels = answers.labels.tolist()
    pairs = []
    for label, answered, pictures in answers.confused_pairs(PAIRS):
        example = [labels.index(answered)] if answered in labels else []
        pairs.append(
            {
                "label": readable(answers.class_names[label]),
                "answered": readable(answers.class_names[answered]),
                "count": len(pictures),
                "of": labels.count(label),
                "mistaken": [thumbnail_as_url(data, i) for i in pictures[:SHOWN_OF_PAIR]],
                "example": [thumbnail_as_url(data, i) for i in example],
            }
        )
    return pairs


def _classes(answers: Answers) -> list[dict[str, Any]]:
    """Say how often each class that has pictures is right, those that most often fail first."""
    pictures = torch.bincount(answers.labels, minlength=len(answers.class_names)).tolist()
    shares = {stream: of_class.tolist() for stream, of_class in answers.per_class().items()}
    taken_for: dict[int, str] = {}
    for label, answered, _ in answers.confused_pairs(len(answers)):
        taken_for.setdefault(label, readable(answers.class_names[answered]))
    occur = [label for label, count in enumerate(pictures) if count]
    return [
        {
            "name": readable(answers.class_names[label]),
            "count": pictures[label],
            "taken_for": taken_for.get(label, ""),
            "shares": {stream: round(100 * shares[stream][label]) for stream in STREAM_NAMES},
        }
        for label in sorted(occur, key=lambda label: shares["fused"][label])
    ]


def _explained(
    model: TwoStreamClassifier, data: TwoStreamDataset, answers: Answers
) -> list[dict[str, Any]]:
    """Explain the surest wrong answers, and the surest right ones, each of another class."""
    fused = STREAMS.index("fused")
    right = answers.classes[:, fused, 0] == answers.labels
    order = answers.probabilities[:, fused, 0].argsort(descending=True, stable=True).tolist()
    wrong = [i for i in order if not right[i]][:WORST]
    seen: set[int] = set()
    good: list[int] = []
    for i in order:
        label = int(answers.labels[i])
        if right[i] and label not in seen and len(good) < GOOD:
            seen.add(label)
            good.append(i)
    counted = "Under each part stands how much it counted."
    return [
        {
            "title": "The worst mistakes",
            "text": "Answers that were wrong, and surest of themselves. In the maps orange speaks "
            f"for the answer that was given, and blue for the right one. {counted}",
            "figures": [_figure(model, data, answers, i) for i in wrong],
        },
        {
            "title": "Right, and sure",
            "text": "The surest right answers, each of another class. The maps show what speaks "
            f"for the answer: yellow for much. {counted}",
            "figures": [_figure(model, data, answers, i) for i in good],
        },
    ]


def _figure(
    model: TwoStreamClassifier, data: TwoStreamDataset, answers: Answers, index: int
) -> dict[str, str]:
    answer = answers[index]
    best, share = answer.fused[0]
    said = f"{readable(best)}, {100 * share:.0f} % sure"
    title = said if best == answer.label else f"{readable(answer.label)}, taken for {said}"
    alone = {"whole picture": answer.global_stream, "parts": answer.local_stream}
    texts = [f"{name} alone: {readable(ranking[0][0])}" for name, ranking in alone.items()]
    return {
        "title": title,
        "text": f"({printable(answer.name)}; {', '.join(texts)})",
        "image": explained_as_url(model, data, answers, index),
    }
