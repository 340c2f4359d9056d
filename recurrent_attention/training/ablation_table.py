"""What an ablation found: a table, and a figure of accuracy over cost."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from recurrent_attention._files import whole_file
from recurrent_attention.training.curves import labels_apart

COLORS = ("#222222", "#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#bbbbbb",
          "#994455", "#997700", "#004488", "#77aa44")  # fmt: skip


class Lead(NamedTuple):
    """By how much the first variant is better than another, on the same test pictures.

    Attributes:
        mean: difference of top-1 in points, over pictures and seeds.
        error: standard error of it over the pictures.
        p_value: of no difference, two-sided, in [0, 1].
    """

    mean: float
    error: float
    p_value: float


class Stopped(NamedTuple):
    """Accuracy and looks of a variant that looks until it is sure, mean over the seeds.

    Attributes:
        confidence: that was enough.
        looks: that a picture took, on average.
        gmacs: of a picture, on average.
        top1: in %.
    """

    confidence: float
    looks: float
    gmacs: float
    top1: float


class Row(NamedTuple):
    """The figures of one variant, over all seeds.

    Attributes:
        name: of the variant, or "global" for the first stream alone.
        what: it is.
        gmacs: billion multiply-adds of a picture, proposal and all looks with it.
        global_top1: in %, one a seed; and so are the next two.
        local_top1: of the local stream.
        fused_top1: of both.
        after: mean fused top-1 in % after 0, 1, ... looks, and the GMACs of each; empty where there
            is one answer.
        stopped: what comes out where it stops when sure, for each confidence.
        lead: of the first variant over this one; None for that one itself.
    """

    name: str
    what: str
    gmacs: float
    global_top1: tuple[float, ...]
    local_top1: tuple[float, ...]
    fused_top1: tuple[float, ...]
    after: tuple[tuple[float, float], ...] = ()
    stopped: tuple[Stopped, ...] = ()
    lead: Lead | None = None


def lead_of(first: Tensor, other: Tensor) -> Lead:
    """Compare two variants picture by picture.

    The pictures are the sample: each counts once, with the mean over the seeds. The p-value is that
    of a normal distribution, which some hundred pictures suffice for.

    Args:
        first: (s n) bool, for s seeds, which of n test pictures the first variant is right for.
        other: the same for the other.

    Returns:
        `Lead`.
    """
    differences = (first.double() - other.double()).mean(0)
    mean = float(differences.mean())
    if len(differences) < 2:  # one picture says nothing of others
        return Lead(100 * mean, math.inf, 1.0)
    error = float(differences.std() / len(differences) ** 0.5)
    if error == 0:  # alike
        return Lead(100 * mean, 0.0, 0.0 if mean else 1.0)
    return Lead(100 * mean, 100 * error, math.erfc(abs(mean) / error / 2**0.5))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = round(statistics.fmean(values), 2) + 0.0  # no -0.00
    return f"{mean:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def as_markdown(rows: Sequence[Row]) -> str:
    """Return tables: top-1 in %, mean and standard deviation over the seeds; and that by looks."""
    base, first = rows[0].fused_top1, rows[1].name
    lines = [
        "| variant | what | GMACs | global | local | answer | answer - global alone | "
        f"lead of {first} over it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gains = [own - other for own, other in zip(row.fused_top1, base, strict=True)]
        cells = [row.name, row.what, f"{row.gmacs:.2f}", _spread(row.global_top1)]
        cells += [_spread(row.local_top1), _spread(row.fused_top1)]
        cells.append("" if row.name == "global" else _spread(gains))
        cells.append("" if row.lead is None else _in_words(row.lead))
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        if row.after:
            lines += ["", *_by_looks(row)]
    return "\n".join(lines)


def _in_words(lead: Lead) -> str:
    if not math.isfinite(lead.error):
        return f"{round(lead.mean, 2) + 0.0:+.2f}, of one picture"
    p_value = "p < .001" if lead.p_value < 0.001 else f"p = {lead.p_value:.3f}".replace("0.", ".")
    return f"{round(lead.mean, 2) + 0.0:+.2f} ± {lead.error:.2f}, {p_value}"


def _by_looks(row: Row) -> list[str]:
    looks = range(len(row.after))
    return [
        f"| {row.name}, looks | {' | '.join(map(str, looks))} |",
        f"|---|{'---|' * len(looks)}",
        f"| GMACs | {' | '.join(f'{gmacs:.2f}' for gmacs, _ in row.after)} |",
        f"| top-1 | {' | '.join(f'{top1:.2f}' for _, top1 in row.after)} |",
        "",
        f"| {row.name}, until sure of | {' | '.join(f'{s.confidence:g}' for s in row.stopped)} |",
        f"|---|{'---|' * len(row.stopped)}",
        f"| looks | {' | '.join(f'{s.looks:.2f}' for s in row.stopped)} |",
        f"| GMACs | {' | '.join(f'{s.gmacs:.2f}' for s in row.stopped)} |",
        f"| top-1 | {' | '.join(f'{s.top1:.2f}' for s in row.stopped)} |",
    ]


def write_table(folder: Path, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    """Write table.md, table.csv and ablation.png, each whole or not at all."""
    with whole_file(folder / "table.md") as beside:
        beside.write_text(as_markdown(rows) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["variant", "seed", "gmacs", "global_top1", "local_top1", "fused_top1"])
    for row in rows:
        of_local = row.local_top1 or ("",) * len(seeds)
        for values in zip(seeds, row.global_top1, of_local, row.fused_top1, strict=True):
            seed, *tops = values
            writer.writerow([row.name, seed, row.gmacs, *tops])
    with whole_file(folder / "table.csv") as beside:
        beside.write_text(text.getvalue(), encoding="utf-8", newline="")
    with whole_file(folder / "ablation.png") as beside:
        ablation_figure(rows).savefig(beside, dpi=150, format="png")


def ablation_figure(rows: Sequence[Row]) -> Figure:
    """Draw accuracy over the cost of a picture: each variant a point, or a curve over its looks."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    named: list[Any] = []
    for row, color in zip(rows, COLORS * len(rows), strict=False):
        mean = statistics.fmean(row.fused_top1)
        spread = statistics.stdev(row.fused_top1) if len(row.fused_top1) > 1 else 0.0
        named.append(
            axes.errorbar([row.gmacs], [mean], yerr=[spread], fmt="o", color=color, label=row.name)
        )
        if row.after:
            axes.plot(*zip(*row.after, strict=True), ".-", color=color, linewidth=1)
        if row.stopped:
            named += axes.plot(
                [one.gmacs for one in row.stopped], [one.top1 for one in row.stopped], "D--",
                color=color, markersize=3.5, linewidth=1, label=f"{row.name}, until it is sure",
            )  # fmt: skip
    axes.set(xscale="log", xlabel="billion multiply-adds a picture", ylabel="top-1 in %")
    _name_looks(axes, rows)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(handles=named, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _name_looks(axes: Any, rows: Sequence[Row]) -> None:
    """Write how many looks some points of the curves have: the last, the first and the third."""
    labels = [
        (row.after[looks], f"{looks} look{'' if looks == 1 else 's'}", color)
        for row, color in zip(rows, COLORS * len(rows), strict=False)
        for looks in dict.fromkeys((len(row.after) - 1, 1, 3))
        if 0 < looks < len(row.after)
    ]
    for at in labels_apart(axes, [place for place, *_ in labels], width=36):
        place, text, color = labels[at]
        axes.annotate(
            text, place, xytext=(-4, 4), textcoords="offset points",
            ha="right", color=color, fontsize=8,
        )  # fmt: skip
