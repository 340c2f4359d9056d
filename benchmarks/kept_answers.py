"""Keep what the runs of an ablation answered, and print its table again without them.

    python benchmarks/kept_answers.py docs/lab/answers/FILE.json                 # print the table
    python benchmarks/kept_answers.py docs/lab/answers/FILE.json --add runs/at-256

A file holds the class that each run gave each test picture, so that runs of different days can be
compared picture by picture. `--add` puts the finished runs of `recurrent-attention ablate` into it.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recurrent_attention._files import whole_file
from recurrent_attention.training.ablation import results_of
from recurrent_attention.training.ablation_rows import rows_of
from recurrent_attention.training.ablation_table import Row, as_markdown
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


def tables_in(file: Path, first: str = "anytime") -> dict[tuple[str, ...], tuple[Row, ...]]:
    """Return a table for each set of seeds: variants that have these in common with the first."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    labels, runs = torch.tensor(kept["labels"]), kept["runs"]

    def findings(variant: Variant, seed: str) -> Kept:
        found = runs[variant.name][seed]
        right = torch.tensor(found[variant.reads]) == labels
        return {**found, "labels": kept["labels"], "right": right}

    together: dict[tuple[str, ...], list[Variant]] = {}
    for name in sorted(runs, key=list(VARIANTS).index):
        if shared := tuple(sorted(set(runs[first]) & set(runs[name]))):
            variants = together.setdefault(shared, [VARIANTS[first]])
            variants += [VARIANTS[name]] if name != first else []
    num_classes = 1 + max(kept["labels"])
    return {
        seeds: rows_of(
            variants,
            {v.name: [findings(v, seed) for seed in seeds] for v in variants},
            kept["settings"],
            num_classes,
        )
        for seeds, variants in together.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--add", type=Path, metavar="FOLDER", help="of `ablate`")
    args = parser.parse_args()
    if args.add is not None:
        add(args.file, args.add)
    for seeds, rows in tables_in(args.file).items():
        print(f"Seeds {', '.join(seeds)}:\n\n{as_markdown(rows)}\n")


if __name__ == "__main__":
    main()
