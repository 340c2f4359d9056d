"""The page docs/backbones.md and its table, from what benchmarks/backbones.py found."""

from typing import Any

from pages import table

Task = tuple[Any, ...]  # what to do, and its arguments
Row = dict[str, Any]  # what was found
STEPS = ("trained", "saved and loaded", "explained")
HEADS = ("model", "module", "image", "patch", "image cells", "patch cells", "channels",
         "M parameters", "image GMACs", "patch GMACs", "GB a step")  # fmt: skip


def works(row: Row) -> bool:
    return row["reason"] is None


def page(
    modules: dict[str, list[str]],
    checks: dict[Task, Row],
    tries: dict[Task, Row],
    versions: dict[str, str],
    *,
    classes: int,
    batch: int,
) -> str:
    rows = {task[1]: row for task, row in checks.items()}
    failed = {name: row["reason"] for name, row in rows.items() if not works(row)}
    usual = sum(works(row) and row["size_note"] is None for row in rows.values())
    working = len(rows) - len(failed)
    through = sum(all(cell(row, step) == "yes" for step in STEPS) for row in tries.values())
    parts = [
        "# Every timm backbone",
        "Written by `python benchmarks/backbones.py`, with "
        + ", ".join(f"{library} {version}" for library, version in versions.items())
        + ". For a single name, and other sizes or batches: "
        "`recurrent-attention backbone NAME` ([any backbone](guides/backbones.md)).",
        f"**{working:,} of {len(rows):,} names** ({working / len(rows):.1%}) work as both streams: "
        f"`TwoStreamClassifier(name, num_classes={classes})` is built on the meta device, and the "
        f"forward pass of a training step runs there. {usual:,} of them take images of 448 and "
        "patches of 224 pixels. The others take the size that they were made for; the image has "
        f"twice that size where possible. **{through} of {len(modules)} modules** work with real "
        "numbers: the check runs the model of each module that has the fewest parameters.",
        "## All names",
        "Side of image and patch in pixels; sides of their maps in cells; channels; parameters of "
        "the whole model in millions; billions of multiply-adds of an image and of a patch in the "
        "backbone (convolutions and matrix products); gigabytes that a training step of "
        f"{batch} images with one patch each takes in float32 (weights, gradients, AdamW's "
        "averages, and what is kept for the backward pass). Counted by shape, not measured.",
        "The table as a file: [backbones.csv](backbones.csv)",
        "## With real numbers",
        "The models have random weights and see noise, in batches of two. *Trained*: after one "
        "step, each parameter that requires a gradient has a finite gradient. *Saved and loaded*: "
        "the logits are equal bit for bit. *Explained*: the maps are finite and have the right "
        "sizes, with a patch that the model itself proposed.",
        table(
            ("module", "model", "image/patch", *STEPS),
            [
                (
                    module,
                    task[1],
                    f"{task[2]}/{task[3]}",
                    *(cell(row, step) for step in STEPS),
                )
                for module, (task, row) in zip(modules, tries.items(), strict=True)
            ],
        ),
        "## What does not work",
        table(("model", "reason"), list(failed.items())) if failed else "Every name in timm works.",
    ]
    return "\n\n".join(parts) + "\n"


def rows_of(modules: dict[str, list[str]], checks: dict[Task, Row]) -> str:
    """Return the text of docs/backbones.csv: a row for each name that works."""
    found = {task[1]: row for task, row in checks.items()}
    lines = [HEADS]
    for module, names in modules.items():
        lines += [line(name, module, found[name]) for name in names if works(found[name])]
    if bad := [cell for cells in lines for cell in cells if set(cell) & set(',"\n')]:
        raise ValueError(f"Expected cells without commas and quotes, but got {bad[0]!r}.")
    return "".join(f"{','.join(cells)}\n" for cells in lines)


def line(name: str, module: str, row: Row) -> tuple[str, ...]:
    image, patch = row["image"], row["patch"]
    channels = dict.fromkeys((image["channels"], patch["channels"]))
    return (
        name,
        module,
        f"{image['size']}",
        f"{patch['size']}",
        side(image),
        side(patch),
        "/".join(map(str, channels)),
        f"{row['parameters'] / 1e6:.1f}",
        short(image["macs"] / 1e9),
        short(patch["macs"] / 1e9),
        short(row["step_bytes"] / 1e9),
    )


def side(stream: Row) -> str:
    height, width = stream["map_size"]
    return str(height) if height == width else f"{height}x{width}"


def short(number: float) -> str:
    """Three digits, as far as there are any before the point."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def cell(row: Row, step: str) -> str:
    return row.get("reason") or row[step] or "yes"
