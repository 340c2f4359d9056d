"""What an ablation found: a table, and a figure of accuracy over cost."""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recurrent_attention._files import whole_file

COLORS = ("#222222", "#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#bbbbbb",
          "#994455")  # fmt: skip


class Row(NamedTuple):
    """What one variant reached, over all seeds.

    Attributes:
        name: of the variant, or "global" for the first stream alone.
        what: it is.
        gmacs: billion multiply-adds of a picture, proposal and all looks with it.
        global_top1: in %, one a seed; and so are the next two.
        local_top1: of the local stream.
        fused_top1: of both.
        after: mean fused top-1 in % after 0, 1, ... looks, and the GMACs of each; empty where there
            is one answer.
        stopped: (GMACs, top-1 in %) means where it stops when sure, for each confidence.
    """

    name: str
    what: str
    gmacs: float
    global_top1: tuple[float, ...]
    local_top1: tuple[float, ...]
    fused_top1: tuple[float, ...]
    after: tuple[tuple[float, float], ...] = ()
    stopped: tuple[tuple[float, float], ...] = ()


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    return f"{mean:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table: top-1 in %, mean and standard deviation over the seeds."""
    base = rows[0].fused_top1
    lines = [
        "| variant | what | GMACs | global | local | fused | fused - global alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gains = [own - other for own, other in zip(row.fused_top1, base, strict=True)]
        cells = [row.name, row.what, f"{row.gmacs:.2f}", _spread(row.global_top1)]
        cells += [_spread(row.local_top1), _spread(row.fused_top1)]
        cells.append("" if row.name == "global" else _spread(gains))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
    for row, color in zip(rows, COLORS * len(rows), strict=False):
        mean = statistics.fmean(row.fused_top1)
        spread = statistics.stdev(row.fused_top1) if len(row.fused_top1) > 1 else 0.0
        axes.errorbar([row.gmacs], [mean], yerr=[spread], fmt="o", color=color, label=row.name)
        if row.after:
            axes.plot(*zip(*row.after, strict=True), ".-", color=color, linewidth=1)
        if row.stopped:
            axes.plot(
                *zip(*row.stopped, strict=True), "D--", color=color, markersize=3.5, linewidth=1,
                label=f"{row.name}, until it is sure",
            )  # fmt: skip
    axes.set(xscale="log", xlabel="billion multiply-adds a picture", ylabel="top-1 in %")
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
