"""Compare fine-tuned classifiers and controls of equal cost over several seeds, on one GPU.

    python benchmarks/fine_tuned.py --data CUB_200_2011 --out runs/fine-tuned \
        --backbone mobilenetv2_100=mobilenetv2.safetensors --backbone tf_efficientnet_lite0=lite0.st

Each backbone and seed is a process of its own, so that a small network keeps a large GPU busy. All
of it is `training.ablate`: what was done is kept, and a second call goes on. The rate of the
backbones is that which the global stream by itself did best with on held-out training pictures
(docs/lab/trials.md); the local stream did as well with others.

`--minutes 9` ends the processes after that time; what they had finished is in the table.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recurrent_attention.training import Recipe, ablate
from recurrent_attention.training.parts import parts_of_folder
from recurrent_attention.training.variants import VARIANTS

COMPARED = ("anytime", "two-networks", "ten-crop", "mirrored", "two-scales", "larger", "scattered",
            "paper", "largest")  # fmt: skip
LR, TRAIN_PATCHES = 3e-4, 3


def settings_of(args: argparse.Namespace, backbone: str, weights: str) -> dict[str, Any]:
    """Return the arguments of `ablate` that all seeds of a backbone share."""
    return {
        "data": parts_of_folder(args.data),  # one split for all seeds
        "out": args.out / backbone,
        "backbone": backbone,
        "backbone_kwargs": {"pretrained_cfg_overlay": {"file": weights}},
        "recipe": Recipe.fine_tuning(epochs=args.epochs, lr=LR),
        "train_patches": TRAIN_PATCHES,
        "num_workers": args.num_workers,
        "progress": False,
    }


def run_seed(settings: dict[str, Any], seed: int) -> None:
    """Train all variants with one seed, in a process of its own."""
    torch.set_num_threads(1)
    ablate(variants=COMPARED, seeds=(seed,), **settings)


def done(folder: Path) -> int:
    return len(list(folder.glob("*/*/seed-*/answers.json")))


def complete(settings: dict[str, Any], seeds: range) -> tuple[str, ...]:
    """Return the variants of which every seed is done; `ablate` only reads them."""

    def is_done(name: str) -> bool:
        variant = VARIANTS[name]
        runs = [variant.run_in(settings["out"], seed) for seed in seeds]
        return all((run / file).is_file() for run in runs for file in variant.files)

    return tuple(filter(is_done, COMPARED))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="pictures in CUB's layout")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or one to go on in")
    parser.add_argument("--backbone", action="append", required=True, metavar="NAME=WEIGHTS")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--epochs", type=int, default=12, help="(default: 12)")
    parser.add_argument("--num-workers", type=int, default=2, help="of a process (default: 2)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then it ends")
    args = parser.parse_args()
    ends = time.monotonic() + 60 * args.minutes
    seeds = range(args.seeds)
    every = [settings_of(args, *given.split("=", 1)) for given in args.backbone]
    start = multiprocessing.get_context("spawn").Process
    waiting = [(settings, seed) for settings in every for seed in seeds]
    running: list[Any] = []
    trained = len([name for name in COMPARED if VARIANTS[name].trained_as is None])
    with tqdm(total=trained * len(waiting), desc="trainings", initial=done(args.out)) as bar:
        while (waiting or any(process.is_alive() for process in running)) and (
            time.monotonic() < ends
        ):
            for settings, seed in list(waiting):
                # The first seed proposes the boxes, which the others then find.
                if seed == seeds[0] or (settings["out"] / "boxes" / "test.json").is_file():
                    waiting.remove((settings, seed))
                    running.append(start(target=run_seed, args=(settings, seed)))
                    running[-1].start()
            time.sleep(2)
            bar.update(done(args.out) - bar.n)
            failed = [process for process in running if process.exitcode not in (None, 0)]
            if failed:
                break
    for process in running:
        process.terminate()
        process.join()
    for settings in every:
        if names := complete(settings, seeds):
            print(ablate(variants=names, seeds=seeds, **settings))


if __name__ == "__main__":
    main()
