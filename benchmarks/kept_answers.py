"""Keep what the runs of an ablation answered, and print its table again without them.

    python benchmarks/kept_answers.py docs/lab/answers/FILE.json                 # print the table
    python benchmarks/kept_answers.py docs/lab/answers/FILE.json --add runs/at-256
    python benchmarks/kept_answers.py docs/lab/answers/FILE.json --than docs/lab/answers/OTHER.json

A file holds the class that each run gave each test picture, so that runs of different days can be
compared picture by picture. `--add` puts the finished runs of `recurrent-attention ablate` into it;
`--than` compares the looks of FILE with runs on pictures of another size.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recurrent_attention._files import whole_file
from recurrent_attention.training.ablation_folder import results_of
from recurrent_attention.training.ablation_rows import rows_of
from recurrent_attention.training.ablation_table import Row, as_markdown, lead_of
from recurrent_attention.training.variants import VARIANTS, Variant

SETTINGS = ("backbone", "image_size", "patch_size", "num_patches", "train_patches")
NUMBERS = ("global_top1", "local_top1", "fused_top1", "fused_top1_after", "stopping")
Kept = dict[str, Any]


def finished_runs(folder: Path) -> Iterator[tuple[str, str, Kept]]:
    """Yield variant, seed and findings of each finished run of an ablation."""
    for variant in VARIANTS.values():
        for run in sorted((folder / (variant.trained_as or variant.name)).glob("seed-*")):
            if all((run / file).is_file() for file in variant.files):
                found = results_of(variant, run)
                read = ("labels", "global", variant.reads)
                kept = {name: found[name] for name in (*NUMBERS, *read) if name in found}
                yield variant.name, run.name.removeprefix("seed-"), kept


def add(file: Path, folder: Path) -> None:
    """Put the finished runs of a folder into a file, new or with others in it."""
    kept: Kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": {}}
    made_with = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
    given = made_with["arguments"]
    shared = {
        "settings": {name: given[name] for name in SETTINGS if name in given},
        "recipe": made_with["recipe"],
        "pictures": made_with["pictures"],
    }
    for name, value in shared.items():
        if kept.setdefault(name, value) != value:
            raise SystemExit(f"Expected the {name} of {file}, {kept[name]}, but got {value}.")
    for variant, seed, found in finished_runs(folder):
        kept["labels"] = found.pop("labels")  # those of the same pictures
        kept["runs"].setdefault(variant, {})[seed] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as beside:
        beside.write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def findings(kept: Kept, variant: Variant, seed: str) -> Kept:
    """Return what a run found, as `rows_of` takes it."""
    found = kept["runs"][variant.name][seed]
    right = torch.tensor(found[variant.reads]) == torch.tensor(kept["labels"])
    return {**found, "labels": kept["labels"], "right": right}


def tables_in(file: Path, first: str = "anytime") -> dict[tuple[str, ...], tuple[Row, ...]]:
    """Return a table for each set of seeds: variants that have these in common with the first.

    In a file of controls alone, the first of these takes its place.
    """
    kept = json.loads(file.read_text(encoding="utf-8"))
    runs = kept["runs"]
    first = first if first in runs else min(runs, key=list(VARIANTS).index)
    together: dict[tuple[str, ...], list[Variant]] = {}
    for name in sorted(runs, key=list(VARIANTS).index):
        if shared := tuple(sorted(set(runs[first]) & set(runs[name]))):
            variants = together.setdefault(shared, [VARIANTS[first]])
            variants += [VARIANTS[name]] if name != first else []
    num_classes = 1 + max(kept["labels"])
    return {
        seeds: rows_of(
            variants,
            {v.name: [findings(kept, v, seed) for seed in seeds] for v in variants},
            kept["settings"],
            num_classes,
        )
        for seeds, variants in together.items()
    }


def rows_than(file: Path, other: Path, first: str = "anytime") -> tuple[Row, ...]:
    """Compare the first variant with all of another file, by the seeds that they have in common."""
    ours, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (file, other))
    if any(ours[name] != theirs[name] for name in ("pictures", "recipe")):
        raise SystemExit(f"Expected the pictures and the recipe of {other} to be those of {file}.")
    names = sorted(theirs["runs"], key=list(VARIANTS).index)
    seeds = set(ours["runs"][first]).intersection(*(theirs["runs"][name] for name in names))

    def rows(kept: Kept, name: str) -> tuple[Row, Row, torch.Tensor]:
        variant = VARIANTS[name]
        found = [findings(kept, variant, seed) for seed in sorted(seeds)]
        made = rows_of([variant], {name: found}, kept["settings"], 1 + max(kept["labels"]))
        return (*made, torch.stack([run["right"] for run in found]))

    base, leader, right = rows(ours, first)
    compared = [rows(theirs, name)[1:] for name in names]
    return (base, leader, *(row._replace(lead=lead_of(right, its)) for row, its in compared))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--add", type=Path, metavar="FOLDER", help="of `ablate`")
    parser.add_argument("--than", type=Path, metavar="OTHER", help="a file of the same pictures")
    args = parser.parse_args()
    if args.than is not None:
        print(as_markdown(rows_than(args.file, args.than)))
        return
    if args.add is not None:
        add(args.file, args.add)
    for seeds, rows in tables_in(args.file).items():
        print(f"Seeds {', '.join(seeds)}:\n\n{as_markdown(rows)}\n")


if __name__ == "__main__":
    main()
