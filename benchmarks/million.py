"""Memory and time of each step from a folder of a million pictures to an evaluation.

    python benchmarks/million.py --out runs/million --pictures 1000000 --classes 10000

The pictures are JPEG files of 48 x 32 pixels, no two alike; the backbone is a stub (`test_resnet`
at 32 pixels, 64 views a pass), so that what is left is what the package itself takes. Each step
runs in a process of its own. The table has the memory that the process keeps for itself (anonymous
pages), above a model that has answered once. Another column has the files that it maps, which all
processes share.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import ROOT, fill, machine, table
from PIL import Image
from timing import status
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import (
    PictureFolder,
    TwoStreamDataset,
    check_pictures,
    read_boxes,
    write_boxes,
)
from recurrent_attention.training import (
    Recipe,
    calibrate,
    evaluate,
    features,
    fit,
    fit_global_head,
    propose_boxes_for,
    reading,
)

PAGE = ROOT / "docs" / "scale.md"
VIEWS = 64  # a pass: a stub is so small that calling it would take longer than its passes
KINDS = 64  # of pictures; two of their 24 fields of color make each another one
STEPS = ("list", "split", "check", "global head", "propose", "write boxes", "read boxes",
         "features and an epoch", "an epoch", "evaluate", "calibrate")  # fmt: skip


def make(out: Path, pictures: int, classes: int) -> None:
    """Write the pictures; what is there stays."""
    kinds = np.random.default_rng(0).integers(0, 255, (KINDS, 4, 6, 3), dtype=np.uint8)
    for number in tqdm(range(pictures), desc="pictures"):
        label = number % classes
        path = out / "pictures" / f"class-{label:05d}" / f"{number:07d}.jpg"
        if number < classes:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            colors = kinds[label % KINDS].copy()
            digits = np.unravel_index(number, (16,) * 6)
            colors[0, 0], colors[0, 1] = np.multiply(digits, 16).reshape(2, 3)
            Image.fromarray(colors).resize((48, 32), 0).save(path, "JPEG", quality=95)


class Peak:
    """The highest sizes of this process, looked at ten times a second."""

    def __init__(self) -> None:
        self.own = self.mapped = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.own = max(self.own, status("RssAnon"))
            self.mapped = max(self.mapped, status("RssFile"))

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.own = max(self.own, status("RssAnon"))


def steps(args: argparse.Namespace) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return each step: what is made before, and then what is measured."""
    root, cache = args.out / "pictures", args.out / "cache"
    boxes_file, head_file = args.out / "boxes.safetensors", args.out / "head.pt"

    def model(trained: bool = True) -> TwoStreamClassifier:
        torch.manual_seed(0)
        built = TwoStreamClassifier(
            "test_resnet", args.classes, image_size=32, patch_size=32, num_patches=args.patches,
            patch_weighting="anytime",
        )  # fmt: skip
        if trained:
            built.global_head.load_state_dict(torch.load(head_file))
        built.predict(Image.new("RGB", (48, 32)))
        return built

    def data(built: TwoStreamClassifier, train: bool) -> TwoStreamDataset:
        pictures = PictureFolder(root)
        return TwoStreamDataset.for_model(
            built, pictures, read_boxes(boxes_file, pictures), train=train
        )

    def global_head() -> Callable[[], Any]:
        built, pictures = model(trained=False), PictureFolder(root)

        def run() -> None:
            recipe = Recipe(epochs=1, batch_size=1024, freeze=True)
            fit_global_head(built, pictures, recipe=recipe, cache_dir=cache)
            torch.save(built.global_head.state_dict(), head_file)

        return run

    def propose() -> Callable[[], Any]:
        built, pictures = model(), PictureFolder(root)
        return lambda: propose_boxes_for(built, pictures, cache_dir=cache)

    def write() -> Callable[[], Any]:
        boxes = propose()()
        return lambda: write_boxes(boxes_file, boxes)

    def read() -> Callable[[], Any]:
        pictures = PictureFolder(root)
        return lambda: read_boxes(boxes_file, pictures)

    def epoch() -> Callable[[], Any]:
        built = model()
        train = data(built, train=True)
        recipe = Recipe.heads_only(epochs=1, batch_size=256)
        return lambda: fit(built, train, recipe=recipe, cache_dir=cache)

    def measure() -> Callable[[], Any]:
        built = model()
        test = data(built, train=False)
        return lambda: evaluate(built, test, frozen=True, cache_dir=cache, batch_size=256)

    def temperatures() -> Callable[[], Any]:
        built = model()
        held_out = data(built, train=False)
        return lambda: calibrate(built, held_out, frozen=True, cache_dir=cache, batch_size=256)

    def split() -> Callable[[], Any]:
        pictures = PictureFolder(root)
        return lambda: pictures.split(0.05, seed=0)

    def listing() -> Callable[[], Any]:
        return lambda: PictureFolder(root)

    def check() -> Callable[[], Any]:
        return lambda: check_pictures(root)

    made = (listing, split, check, global_head, propose, write, read, epoch, epoch, measure,
            temperatures)  # fmt: skip
    return dict(zip(STEPS, made, strict=True))


def measure_step(args: argparse.Namespace) -> None:
    """Run one step in this process, and print what it took."""
    torch.set_num_threads(1)
    reading.PICTURES_PER_PASS_CPU = features.VIEWS_PER_PASS_CPU = VIEWS
    run = steps(args)[args.step]()
    before = status("RssAnon")
    started = time.perf_counter()
    with Peak() as peak:
        kept = run()
    seconds = time.perf_counter() - started
    del kept
    found = {"seconds": seconds, "before": before, "own": peak.own, "mapped": peak.mapped}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--pictures", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--classes", type=int, default=10_000, help="(default: 10000)")
    parser.add_argument("--patches", type=int, default=3, help="of each picture (default: 3)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="(default: all)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # in this process
    args = parser.parse_args()
    if args.step:
        measure_step(args)
        return
    make(args.out, args.pictures, args.classes)
    rows = []
    for step in tqdm(args.steps, desc="steps"):
        command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        sizes = [f"{found['own'] - found['before']:.0f}", f"{found['own']:.0f}"]
        rows.append((step, f"{found['seconds']:.1f}", *sizes, f"{found['mapped']:.0f}"))
        heads = ("step", "seconds", "MB more than before it", "MB in all", "MB of mapped files")
        tqdm.write(f"{rows[-1]}")
    text = f"{args.pictures} pictures of {args.classes} classes, {args.patches} patches of each."
    fill(PAGE, f"{args.pictures} pictures", f"{table(heads, rows)}\n\n{text} {machine()}.")
    print(table(heads, rows))


if __name__ == "__main__":
    main()
