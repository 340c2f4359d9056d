"""The line under an explanation: what would have been answered after each look."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurrent_attention.inference.looking import probabilities_after
from recurrent_attention.inference.sheet import (
    INK,
    LARGE,
    PALE,
    SMALL,
    SMALL_PER_INCH,
    Sheet,
    wrapped,
)

SURE = 0.9  # the probability at which the line says that the model would have stopped
ABOVE, BELOW = 0.42, 0.4  # inches for names and for numbers
LINE_COLOR, NAME_WIDTH = "#b5480a", 1.3


class AnswersAfter(NamedTuple):
    """Answers after 0, 1, ... n looks.

    Attributes:
        shares: n + 1 probabilities of the class that is explained.
        best: n + 1 best classes.
        stop: after how many looks the best class has at least `SURE`; None where it never has.
    """

    shares: list[float]
    best: list[int]
    stop: int | None


def answers_after(
    global_logits: Tensor,
    prefix_logits: Tensor,
    target: int,
    temperatures: Sequence[float] | None,
) -> AnswersAfter:
    """Return what both streams answer to one picture after each number of looks.

    Args:
        global_logits: (k).
        prefix_logits: (n k).
        target: class in [0, k).
        temperatures: of the model.
    """
    after = torch.cat([global_logits[None], prefix_logits]).cpu().double()
    odds = probabilities_after(after, temperatures)
    highest, best = odds.max(1)
    sure = (highest >= SURE).nonzero().flatten().tolist()
    return AnswersAfter(odds[:, target].tolist(), best.tolist(), sure[0] if sure else None)


def draw_answers_after(
    sheet: Sheet,
    found: AnswersAfter,
    names: Sequence[str],
    *,
    left: float,
    top: float,
    width: float,
    room: float,
    height: float,
    target: str,
) -> None:
    """Draw the probability of the class explained over the looks, and who leads at each.

    Args:
        sheet: to draw on.
        found: of `answers_after`.
        names: n + 1, of the best classes.
        left: of the line, in inches, and so are the next three.
        top: of all that is drawn.
        width: of the line.
        room: width that the heading may take.
        height: of all that is drawn, names and numbers with it.
        target: name of the class that is explained.
    """
    count = len(found.shares)
    heading = wrapped(f"answer after each look: how likely is {target}", room, lines=1)
    sheet.text(left, top, heading, LARGE, ha="left", color=PALE)
    axes = sheet.axes(left, top + ABOVE, width, height - ABOVE - BELOW)
    axes.spines["bottom"].set(visible=True, color="#bbbbbb", linewidth=0.8)
    places = list(range(count))
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, 1.05))
    axes.axhline(SURE, color=PALE, linewidth=0.6, linestyle=(0, (3, 3)), zorder=0)
    axes.plot(places, found.shares, "-", color=LINE_COLOR, linewidth=1.6)
    for place, share, name in zip(places, found.shares, names, strict=True):
        leads = name == target
        look: dict[str, Any] = {"color": LINE_COLOR, "mfc": LINE_COLOR if leads else "white"}
        axes.plot([place], [share], "o", markersize=4.5, **look)
        if count <= 16:
            high = share > 0.5
            axes.annotate(
                f"{100 * share:.0f} %", (place, share), (0, -5 if high else 5), ha="center",
                textcoords="offset points", va="top" if high else "bottom", fontsize=SMALL,
                color=INK if leads else PALE,
            )  # fmt: skip
    if found.stop is not None:
        axes.axvline(found.stop, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    step, bottom = width / count, top + height - BELOW
    numbers = [left + (place + 0.5) * step for place in places]
    for place, x in zip(places, numbers, strict=True):
        if count <= 16 or place % 5 == 0:
            sheet.text(x, bottom + 0.05, f"{place}" if place else "0 looks", color=PALE)
    edge = top + ABOVE + (height - ABOVE - BELOW) * (1 - SURE / 1.05)
    sheet.text(left + width + 0.05, edge, f"{100 * SURE:.0f} %", ha="left", va="center", color=PALE)
    said = f"never {100 * SURE:.0f} % sure"
    if found.stop is not None:
        leader = names[found.stop]
        of = "" if leader == target else f" of {wrapped(leader, NAME_WIDTH, lines=1)}"
        said = f"sure{of}: would stop here"
    x = left + width if found.stop is None else numbers[found.stop]
    after = found.stop is not None and found.stop < count / 2
    align = "left" if after else "right"
    sheet.text(x + (0.06 if after else -0.06), top + ABOVE - 0.15, said, ha=align, color=INK)
    # A name is written where the lead changes, if there is room.
    free = left - NAME_WIDTH
    for place, (x, name) in enumerate(zip(numbers, names, strict=True)):
        text = wrapped(name, NAME_WIDTH, lines=1)
        half = max(len(text) / SMALL_PER_INCH, 0.1) / 2
        changed = place == 0 or name != names[place - 1]
        if changed and x - half >= free:
            color = INK if name == target else PALE
            sheet.text(x, bottom + 0.2, text, color=color)
            free = x + half + 0.1
