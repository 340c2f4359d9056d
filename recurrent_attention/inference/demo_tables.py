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
.gradio-container main { width: 100%; }
.gradio-container .html-container { padding: 0 !important; }
.ra { --pale: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.ra { --line: color-mix(in srgb, var(--body-text-color) 14%, transparent); }
.gradio-container .ra h1 { font-size: 1.75rem; font-weight: 650; margin: .4rem 0 .1rem; }
.gradio-container .ra h2 { font-size: 1.25rem; font-weight: 650; margin: 1.2rem 0 .1rem; }
.gradio-container .ra p { color: var(--pale); margin: 0; overflow-wrap: anywhere; }
.gradio-container .ra p.note { font-size: .85rem; margin: .6rem .2rem 0; }
.gradio-container .ra table { width: 100%; border-collapse: collapse; margin: 0; }
.gradio-container .ra :is(table, thead, tbody, tr, th, td) { border: 0; background: none; }
.gradio-container .ra :is(th, td) { padding: .42rem .6rem; text-align: left; }
.gradio-container .ra thead th { color: var(--pale); font-weight: 500; font-size: .85rem; }
.gradio-container .ra tbody th { font-weight: 400; overflow-wrap: break-word; }
.gradio-container .ra tbody tr { border-top: 1px solid var(--line); }
.gradio-container .ra tr.chosen { background: color-mix(in srgb, #ee7733 13%, transparent); }
.gradio-container .ra .best { font-weight: 650; }
.ra td.share { width: 22%; min-width: 5rem; font-variant-numeric: tabular-nums; }
.ra .bar { display: block; height: .32rem; min-width: 1px; border-radius: .16rem; }
.ra .bar { margin-top: .15rem; background: #4477aa; }
.ra .alone .bar { background: #9db4cc; }
.ra .weight .bar { background: #ee7733; }
.ra .card { border: 1px solid var(--line); border-radius: .6rem; overflow-x: auto; }
.ra .card { background: var(--block-background-fill); padding: .35rem .5rem; }
.ra .sentence { border-left: 4px solid #cc3311; padding: .7rem 1rem; border-radius: .3rem; }
.ra .sentence { background: color-mix(in srgb, #cc3311 9%, transparent); overflow-wrap: anywhere; }
.ra .steps { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
.ra .steps .card { padding: .9rem 1.1rem; }
.ra .steps b { display: block; margin-bottom: .25rem; }
.ra td { white-space: nowrap; }
.ra td.answer { white-space: normal; }
.ra .weights td.share span { display: inline-block; vertical-align: middle; margin: 0; }
.ra .weights td.share { width: 32%; }
.ra .weights .share span:first-child { width: 3.9rem; }
.ra .weights .share .track { width: calc(100% - 4rem); max-width: 6rem; }
.gradio-container .ra .weights tbody :is(th, td) { padding-top: .2rem; padding-bottom: .2rem; }
#patch .wrap { gap: .3rem; }
#patch label { padding: .3rem .55rem; }
#rows, #classes { contain: inline-size; }
#strip { contain: inline-size; overflow-x: auto !important; }
#strip img { min-width: 860px; object-fit: contain; }
footer .divider:first-child { display: none; }
@media (max-width: 640px) {
  .ra .steps { grid-template-columns: 1fr; }
  .gradio-container .ra :is(th, td) { padding: .35rem .2rem; font-size: .82rem; }
  .ra td.share { width: auto; min-width: 3rem; }
  .ra .weights td.share { width: auto; }
  .ra .weights td.share span.track { display: none; }
  .ra .card { padding: .3rem .25rem; }
  #strip :is(.image-container, button, .image-frame) { justify-content: start; }
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
    """Return the most probable classes, and how probable each stream finds them.

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
    note = "Bold: what each answers. The model answers what both streams together answer."
    return _table(["class", *STREAMS], rows, note)


def table_of_looks(looks: Looks, group: int, chosen: int) -> str:
    """Return the looks of a group: how much each counts, and what it answers by itself.

    Args:
        looks: of a picture.
        group: in [0, g).
        chosen: the look that is shown, in [0, r); its row is marked.

    Returns:
        HTML: a row for each look.
    """
    rows, most = [], float(looks.weights[group].max())
    for look, (weight, answer) in enumerate(
        zip(looks.weights[group].tolist(), looks.answers[group], strict=True)
    ):
        best = int(answer.argmax())
        mark = ' class="chosen" aria-current="true"' if look == chosen else ""
        name = "best" if best == looks.target else ""
        rows.append(
            f"<tr{mark}><th scope=row>{look + 1}</th>"
            f"{_share(weight, False, 'weight', most)}"
            f'<td class="answer {name}">{escape(looks.names[best])} {_percent(answer, best)}</td>'
            f"<td>{_percent(answer, looks.target)}</td></tr>"
        )
    kind = "patch" if looks.by_patch else "look"
    wanted = f"for {looks.names[looks.target]}"
    note = f"Bold: the {kind} answers {looks.names[looks.target]} by itself."
    return _table([kind, "weight", "answer by itself", wanted], rows, note, "weights")


def _table(columns: list[str], rows: list[str], note: str, kind: str = "") -> str:
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in columns)
    body = "".join(rows)
    return (
        f'<div class="ra"><div class="card {kind}"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="note">{escape(note)}</p></div>'
    )


def _share(share: float, best: bool, kind: str, whole: float = 1.0) -> str:
    """Return a cell with a share in [0, 1] as text, and as a bar that is full for `whole`."""
    width = 100 * share / whole if whole > 0 else 0.0
    return (
        f'<td class="share {kind}"><span{" class=best" if best else ""}>{100 * share:.1f} %</span>'
        f'<span class="track"><span class="bar" style="width:{width:.1f}%"></span></span></td>'
    )


def _percent(probabilities: Tensor, index: int) -> str:
    return f"{100 * float(probabilities[index]):.0f}&nbsp;%"
