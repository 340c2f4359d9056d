"""The demo's own HTML: its tables of probabilities and of looks, its sentences, its style.

Names of classes and of files come from strangers: whatever is put into HTML here is escaped.
"""

from html import escape

from torch import Tensor

from recurrent_attention._errors import printable
from recurrent_attention.inference.demo_looks import Looks

MOST_CLASSES = 5  # of the streams together; below them what a single stream answers otherwise
STREAMS = ("both streams", "global alone", "local alone")

CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.gradio-container .ra h1 { font-size: 1.75rem; font-weight: 650; margin: .4rem 0 .1rem; }
.gradio-container .ra h2 { font-size: 1.2rem; font-weight: 650; margin: 1.1rem 0 .1rem; }
.gradio-container .ra p { color: var(--body-text-color-subdued); margin: 0; max-width: 75ch; }
.gradio-container .ra table { width: 100%; border-collapse: collapse; margin: 0; }
.ra th, .ra td { padding: .42rem .6rem; border: 0; text-align: left; vertical-align: middle; }
.ra thead th { color: var(--body-text-color-subdued); font-weight: 500; font-size: .85rem; }
.ra tbody th { font-weight: 400; overflow-wrap: anywhere; }
.ra tbody tr { border-top: 1px solid var(--border-color-primary); }
.ra tbody tr.chosen { background: color-mix(in srgb, #ee7733 13%, transparent); }
.ra .best { font-weight: 650; }
.ra td.share { width: 22%; min-width: 5rem; font-variant-numeric: tabular-nums; }
.ra .bar { display: block; height: .32rem; border-radius: .16rem; background: #4477aa; }
.ra .bar { min-width: 1px; margin-top: .15rem; }
.ra .alone .bar { background: #9db4cc; }
.ra .weight .bar { background: #ee7733; }
.ra .card { border: 1px solid var(--border-color-primary); border-radius: .6rem; }
.ra .card { background: var(--block-background-fill); padding: .35rem .5rem; overflow-x: auto; }
.ra .sentence { border-left: 4px solid #cc3311; padding: .7rem 1rem; border-radius: .3rem; }
.ra .sentence { background: color-mix(in srgb, #cc3311 9%, transparent); overflow-wrap: anywhere; }
.ra .steps { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
.ra .steps div { padding: .9rem 1.1rem; }
.ra .steps b { display: block; margin-bottom: .25rem; }
#strip img { min-width: 860px; object-fit: contain; }
#strip .image-container, #strip .image-frame { overflow-x: auto; }
@media (max-width: 640px) {
  .ra .steps { grid-template-columns: 1fr; }
  .ra th, .ra td { padding: .35rem .3rem; font-size: .88rem; }
  .ra td.share { width: auto; min-width: 3.6rem; }
}
"""

WELCOME = """<div class="ra"><div class="steps">
<div class="card"><b>1 &middot; What it says</b><p>The most probable classes, of both streams
together and of each alone.</p></div>
<div class="card"><b>2 &middot; Where it looked</b><p>The boxes that the model proposed by itself,
numbered, and cut out as patches.</p></div>
<div class="card"><b>3 &middot; Look by look</b><p>What in each patch speaks for a class of your
choice, with weights and answers.</p></div>
</div></div>"""


def heading(title: str, below: str, level: int = 2) -> str:
    """Return a heading with a line of explanation below it.

    Args:
        title: plain text.
        below: plain text.
        level: 1 or 2.

    Returns:
        HTML.
    """
    words = escape(printable(title)), escape(printable(below))
    return f'<div class="ra"><h{level}>{words[0]}</h{level}><p>{words[1]}</p></div>'


def sentence(text: str) -> str:
    """Return what went wrong, as HTML that a screen reader says at once."""
    return (
        f'<div class="ra"><div class="sentence" role="alert">{escape(printable(text))}</div></div>'
    )


def table_of_classes(looks: Looks) -> str:
    """Return the most probable classes, and what each stream gives them.

    Args:
        looks: of a picture.

    Returns:
        HTML: a row for each of the best classes of both streams together, best first, and below
        them one for what a stream alone answers, if that is none of these.
    """
    best = looks.streams[0].sort(descending=True, stable=True).indices.tolist()[:MOST_CLASSES]
    answers = looks.streams.argmax(1).tolist()
    shown = list(dict.fromkeys([*best, *answers]))
    rows = []
    for index in shown:
        cells = "".join(
            _share(float(looks.streams[stream, index]), answers[stream] == index, kind)
            for stream, kind in enumerate(("both", "alone", "alone"))
        )
        mark = ' class="best"' if index == answers[0] else ""
        rows.append(f"<tr><th scope=row{mark}>{escape(looks.names[index])}</th>{cells}</tr>")
    return _table(["class", *STREAMS], rows)


def table_of_looks(looks: Looks, group: int, chosen: int) -> str:
    """Return the looks of a group: how much each counts, and what it answers by itself.

    Args:
        looks: of a picture.
        group: in [0, g).
        chosen: the look that is shown, in [0, r); its row is marked.

    Returns:
        HTML: a row for each look.
    """
    rows = []
    for look, (weight, answer) in enumerate(
        zip(looks.weights[group].tolist(), looks.answers[group], strict=True)
    ):
        best = int(answer.argmax())
        mark = ' class="chosen" aria-current="true"' if look == chosen else ""
        name = "best" if best == looks.target else ""
        rows.append(
            f"<tr{mark}><th scope=row>{look + 1}</th>{_share(weight, False, 'weight')}"
            f'<td class="{name}">{escape(looks.names[best])} {_percent(answer, best)}</td>'
            f"{_share(float(answer[looks.target]), False, 'alone')}</tr>"
        )
    kind = "patch" if looks.by_patch else "look"
    return _table([kind, "weight", "answer by itself", f"for {looks.names[looks.target]}"], rows)


def _table(columns: list[str], rows: list[str]) -> str:
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in columns)
    body = "".join(rows)
    return (
        f'<div class="ra"><div class="card"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _share(share: float, best: bool, kind: str) -> str:
    """Return a cell with a share in [0, 1] as text and as a bar."""
    words = f"{100 * share:.1f} %"
    return (
        f'<td class="share {kind}"><span{" class=best" if best else ""}>{words}</span>'
        f'<span class="bar" style="width:{100 * share:.1f}%"></span></td>'
    )


def _percent(probabilities: Tensor, index: int) -> str:
    return f"{100 * float(probabilities[index]):.0f} %"
