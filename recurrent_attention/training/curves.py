"""The pictures of a run: loss and accuracy over its epochs, accuracy over looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recurrent_attention._files import whole_file
from recurrent_attention.training.answers import CONFIDENCES, Answers

STREAM_COLORS = {"global": "#4477aa", "local": "#ee8866", "fused": "#222222"}


def draw_curves(
    history: Sequence[dict[str, Any]], path: str | Path, *, best_epoch: int, held_out: str
) -> None:
    """Draw loss and top-1 accuracy of both streams over the epochs.

    Args:
        history: one dictionary for each epoch, as `fit` returns them.
        path: of the .png file.
        best_epoch: marked, from 1.
        held_out: what the solid lines were measured on, for example "validation".
    """
    figure = curves_figure(history, best_epoch, held_out)
    with whole_file(Path(path)) as beside:
        figure.savefig(beside, dpi=150, format="png")


def curves_figure(history: Sequence[dict[str, Any]], best_epoch: int, held_out: str) -> Figure:
    """Return the figure that `draw_curves` writes."""
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [r["train_loss"] for r in history], "--", color="#888888", label="train")
    if "val_loss" in history[0]:
        loss.plot(epochs, [r["val_loss"] for r in history], color="#222222", label=held_out)
    loss.set(xlabel="epoch", ylabel="loss, both streams", ylim=(0, None))
    for stream, color in STREAM_COLORS.items():
        train = [100 * r[f"train_{stream}"] for r in history]
        accuracy.plot(epochs, train, "--", color=color, alpha=0.45, linewidth=1)
        if f"val_{stream}" in history[0]:
            values = [100 * r[f"val_{stream}"] for r in history]
            width = 2.4 if stream == "fused" else 1.6
            accuracy.plot(epochs, values, color=color, linewidth=width, label=stream)
        else:
            accuracy.plot([], [], color=color, label=stream)
    accuracy.axvline(best_epoch, color="#bbbbbb", linewidth=1, zorder=0)
    accuracy.annotate(
        f"kept: epoch {best_epoch}",
        (best_epoch, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="right",
        fontsize=8,
        color="#777777",
    )
    accuracy.set(xlabel="epoch", ylabel="top-1 in %", ylim=(0, 100))
    accuracy.set_title(f"solid: {held_out}, dashed: train", fontsize=9, color="#555555")
    accuracy.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # hides no line
    loss.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def labels_apart(
    axes: Any, places: Sequence[tuple[float, float]], *, width: float, height: float = 10
) -> list[int]:
    """Return the indices of the labels that can be written without lying on an earlier one.

    Args:
        axes: that have all they show, but the labels.
        places: x and y of each label, in data coordinates; the more important first.
        width: of a label, in points.
        height: of a label, in points.
    """
    axes.get_xlim(), axes.get_ylim()  # the limits are settled when they are read
    in_points = axes.transData.transform(places) * 72 / axes.figure.dpi
    kept: list[int] = []
    for at, place in enumerate(in_points):
        if all((abs(place - in_points[other]) >= (width, height)).any() for other in kept):
            kept.append(at)
    return kept


def looks_figure(answers: Answers) -> Figure:
    """Draw how often both streams are right after 0, 1, ... looks, and if they stop when sure."""
    after = [100 * share for share in answers.top1_after()]
    stopped = [answers.stopping(confidence) for confidence in CONFIDENCES]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(
        range(len(after)), after, "o-", color=STREAM_COLORS["fused"], label="as many for each"
    )
    axes.plot(
        [one.mean_looks for one in stopped],
        [100 * one.top1 for one in stopped],
        "D-",
        color=STREAM_COLORS["local"],
        markersize=5,
        linewidth=1,
        label="until it is sure",
    )
    surest_first = stopped[::-1]
    places = [(one.mean_looks, 100 * one.top1) for one in surest_first]
    for at in labels_apart(axes, places, width=26):
        one, place = surest_first[at], places[at]
        axes.annotate(
            f"{100 * one.confidence:.0f} %",
            place,
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#b5480a",
        )
    axes.set(xlabel="looks at parts of a picture, on average", ylabel="top-1 in %, both streams")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
