"""Answers as notebooks show them: HTML that is legible on light and on dark pages."""

from collections.abc import Iterable
from html import escape

from recurrent_attention._errors import printable

BAR = "#5b8ec4"  # a contrast of at least 3 to white and to the dark pages of Jupyter
_CELL = "border:none;background:none;color:inherit;padding:2px 10px 2px 0"


def table_of(answers: Iterable[tuple[str, float]], streams: Iterable[tuple[str, str]]) -> str:
    """Return a table: names with their probabilities as numbers and bars, and notes below.

    Colours of letters are those of the page. Names may be anybody's: no letter of them is read as
    HTML, and no control character is passed on.

    Args:
        answers: names of classes and their probabilities in [0, 1].
        streams: what a stream is called, and its own answer.

    Returns:
        HTML, without scripts, classes or style sheets.

    Example:
        >>> "&lt;b&gt;wren" in table_of([("<b>wren", 0.9)], [("global stream alone", "wren")])
        True
    """
    rows = []
    for name, probability in answers:
        percent = f"{100 * probability:.1f}"
        width = percent if probability > 0 else "0"  # also of what is not a number
        rows.append(
            f'<tr style="background:none">'
            f'<td style="{_CELL};text-align:left">{_text(name)}</td>'
            f'<td style="{_CELL};text-align:right;white-space:nowrap">{percent} %</td>'
            f'<td style="{_CELL};width:160px">'
            f'<div style="width:{width}%;min-width:1px;height:0.8em;background:{BAR}"></div>'
            "</td></tr>"
        )
    notes = ", ".join(f"{_text(who)}: {_text(name)}" for who, name in streams)
    return (
        f'<table style="border-collapse:collapse;color:inherit">{"".join(rows)}</table>'
        f'<div style="color:inherit;opacity:0.75;font-size:90%">{notes}</div>'
    )


def _text(name: str) -> str:
    return escape(printable(name))
