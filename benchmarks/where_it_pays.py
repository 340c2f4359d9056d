"""For which pictures does the second stream pay? The same birds, with one change at a time.

    python benchmarks/where_it_pays.py --data CUB_200_2011 --weights FILE --out runs/where-it-pays

Each condition is a changed copy of the data set: cut out around the bird, scaled down or blurred,
in training and in test. A classifier with frozen backbones is trained on each, with several seeds.
The table compares the streams on the test pictures, and the figure shows what both gain on the
global stream alone, with the standard error over the test pictures. The streams share no parameter,
so "global" is a classifier without the second stream.

Copies are PNG files, which lose nothing. To save time the two streams see no mirrored views in
training, and the boxes of a condition are proposed once, for all seeds, by a classifier of whole
pictures that was trained on all training pictures with seed 0. No choice is made on the test
pictures. Called again with the same --out, it goes on where it was; processes with different --only
can share the work.
"""

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._files import whole_file
from recurrent_attention.data import (
    CUB200,
    PictureFolder,
    Pictures,
    TwoStreamDataset,
    read_boxes,
    write_boxes,
)
from recurrent_attention.training import Recipe, evaluate, fit, fit_global_head, propose_boxes_for

VALIDATION_SHARE = 0.15
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
STREAMS = ("global", "local", "fused")
BLURRED_SIDE = 384  # longer side of the picture that a blur of so many pixels is meant for
Box = tuple[float, float, float, float]
Array = NDArray[np.float64]


class Condition(NamedTuple):
    """A change of all pictures: "cut" to a multiple of the box's sides, "scale" or "blur"."""

    name: str
    what: str
    change: str = ""
    by: float = 0.0

    def __call__(self, picture: Image.Image, box: Box) -> tuple[Image.Image, float]:
        """Return the changed picture, and the square root of the bird's share of its area."""
        width, height = picture.size
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        bird = (x1 - x0) * (y1 - y0)
        if self.change == "cut":
            dx, dy = (self.by - 1) / 2 * (x1 - x0), (self.by - 1) / 2 * (y1 - y0)
            x0, y0, x1, y1 = max(x0 - dx, 0), max(y0 - dy, 0), x1 + dx, y1 + dy
            cut = (round(x0), round(y0), round(min(x1, width)), round(min(y1, height)))
            picture = picture.crop(cut)
            width, height = picture.size
        elif self.change == "scale":
            picture.thumbnail((self.by, self.by), Image.Resampling.LANCZOS)
        elif self.change == "blur":
            sigma = self.by * max(picture.size) / BLURRED_SIDE
            picture = picture.filter(ImageFilter.GaussianBlur(sigma))
        return picture, min(1.0, bird / (width * height)) ** 0.5


WHOLE = Condition("whole", "whole picture")
CONDITIONS = (
    WHOLE,
    *(Condition(f"box-{by}", f"cut to the box x {by}", "cut", by) for by in (2, 1.5, 1.1)),
    *(Condition(f"side-{by}", f"longer side {by} px", "scale", by) for by in (256, 192, 128, 96)),
    *(Condition(f"blur-{by}", f"blurred, sigma {by} px", "blur", by) for by in (1, 2, 4)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="CUB-200-2011, with bounding_boxes.txt")
    add("--weights", type=Path, help="file for the backbone (default: timm downloads them)")
    add("--backbone", default="mobilenetv2_100")
    add("--out", type=Path, default=Path("runs/where-it-pays"))
    add("--only", nargs="+", choices=[c.name for c in CONDITIONS], help="(default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--num-patches", type=int, default=10, help="boxes of each picture (default: 10)")
    add("--every", type=int, default=1, help="use every n-th class (default: 1, all)")
    add(
        "--same-places",
        action="store_true",
        help="look into scaled and blurred pictures where the whole ones are looked into, which "
        "saves half of the time (default: propose boxes in each)",
    )
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("num_patches", "every", "same_places")}
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "settings.json"
    if not kept.is_file():
        with whole_file(kept) as beside:
            beside.write_text(json.dumps(settings), encoding="utf-8")
    elif json.loads(kept.read_text(encoding="utf-8")) != settings:
        parser.error(f"{args.out} holds results of other settings; choose another --out")
    wanted = [c for c in CONDITIONS if args.only is None or c.name in args.only]
    for condition in tqdm(wanted, desc="conditions"):
        for seed in args.seeds:
            result = args.out / args.backbone / condition.name / f"seed-{seed}.json"
            if not result.is_file():
                hits = train(args, condition, seed)
                with whole_file(result) as beside:
                    beside.write_text(json.dumps(hits), encoding="utf-8")
    rows = read_rows(args.out, args.backbone, args.seeds)
    said = ", ".join(f"{name}={value}" for name, value in settings.items())
    table = (
        f"{args.backbone}, frozen, at 224/224 pixels, no mirrored views, {said}. "
        "Top-1 in %, mean ± standard deviation over the seeds; px: mean longer side; error: "
        f"standard error of the gain over the test pictures.\n\n{as_markdown(rows)}\n"
    )
    with whole_file(args.out / f"{args.backbone}.md") as beside:
        beside.write_text(table, encoding="utf-8")
    with whole_file(args.out / f"{args.backbone}.png") as beside:
        figure_of(rows).savefig(beside, dpi=150, format="png")
    print(table)


def read_parts(args: argparse.Namespace, condition: Condition) -> dict[str, Pictures]:
    """Return the changed pictures by part; they and the birds' shares are made where missing."""
    folder = args.out / "pictures" / condition.name
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shares = {}
        for split in SPLITS:
            birds = CUB200(args.data, split)
            for index, name in enumerate(tqdm(birds.names, desc=f"{condition.name}, {split}")):
                if birds.labels[index] % args.every:
                    continue
                with Image.open(birds.path(index)) as picture:
                    changed, share = condition(picture.convert("RGB"), birds.bounding_boxes[name])
                file = beside / split / Path(name).with_suffix(".png")
                file.parent.mkdir(parents=True, exist_ok=True)
                changed.save(file, compress_level=1)
                shares[file.relative_to(beside / split).as_posix()] = share
        (beside / "shares.json").write_text(json.dumps(shares), encoding="utf-8")
        beside.rename(folder)
    return {split: PictureFolder(folder / split) for split in SPLITS}


def train(args: argparse.Namespace, condition: Condition, seed: int) -> dict[str, Any]:
    """Train the heads of both streams; return what each got right of the test pictures."""
    parts = read_parts(args, condition)
    kept, validation = parts["train"].split(VALIDATION_SHARE, seed=seed)
    boxes = boxes_of(args, condition)
    model = untrained(args, parts["train"].class_names, seed)
    show = partial(TwoStreamDataset.for_model, model, flip=False)
    learned, chosen_by = show(kept, boxes["train"], train=True), show(validation, boxes["train"])
    cache_dir = args.out / args.backbone / condition.name / "features"
    fit(model, learned, chosen_by, recipe=Recipe.heads_only(seed=seed), cache_dir=cache_dir)
    test = show(parts["test"], boxes["test"])
    answers = evaluate(model, test, frozen=True, cache_dir=cache_dir).answers
    assert answers is not None
    right = answers.classes[:, :, 0] == answers.labels[:, None]
    hits = {stream: right[:, place].int().tolist() for place, stream in enumerate(STREAMS)}
    return {"names": answers.names, **hits}


def untrained(
    args: argparse.Namespace, class_names: Sequence[str], seed: int
) -> TwoStreamClassifier:
    overlay = {"pretrained_cfg_overlay": {"file": str(args.weights)}} if args.weights else {}
    torch.manual_seed(seed)
    return TwoStreamClassifier(
        args.backbone, len(class_names), class_names=class_names, image_size=224, patch_size=224,
        num_patches=args.num_patches, patch_weighting="anytime", fusion_weight=2.0,
        pretrained=True, backbone_kwargs=overlay,
    )  # fmt: skip


def boxes_of(args: argparse.Namespace, condition: Condition) -> dict[str, Mapping[str, Tensor]]:
    """Propose boxes once, and keep them: the global stream's classifier says where to look."""
    parts = read_parts(args, condition)
    run = args.out / args.backbone / condition.name
    files = {name: run / f"boxes-{name}.json" for name in parts}
    if not all(file.is_file() for file in files.values()):
        run.mkdir(parents=True, exist_ok=True)
        if args.same_places and condition.change in ("scale", "blur"):
            found, whole = boxes_of(args, WHOLE), read_parts(args, WHOLE)
            boxes = {name: moved(found[name], whole[name], parts[name]) for name in parts}
        else:
            model = untrained(args, parts["train"].class_names, seed=0)
            fit_global_head(model, parts["train"], cache_dir=run / "features")
            propose = partial(propose_boxes_for, model, cache_dir=run / "features")
            boxes = {name: propose(part) for name, part in parts.items()}
        for name, file in files.items():
            write_boxes(file, boxes[name])
    return {name: read_boxes(file, parts[name]) for name, file in files.items()}


def moved(boxes: Mapping[str, Tensor], whole: Pictures, scaled: Pictures) -> dict[str, Tensor]:
    """Return the same places in pictures of other sizes."""
    found = {}
    for index, name in enumerate(whole.names):
        shrunk = torch.tensor(scaled.size(index)) / torch.tensor(whole.size(index))
        found[name] = boxes[name] * shrunk.repeat(2)
    return found


class Row(NamedTuple):
    """Test pictures of a condition: the bird's share of each, and who got it right, in %."""

    condition: Condition
    shares: Array  # (n)
    side: float  # mean longer side in pixels
    hits: Array  # (seeds 4 n) of the streams and fused - global, 0 or 100

    @property
    def error(self) -> float:
        """Standard error of the mean gain over the pictures."""
        gains = self.hits[:, -1].mean(0)
        return float(gains.std(ddof=1) / math.sqrt(gains.size))

    def thirds(self) -> list["Row"]:
        """Split the pictures in three by the bird's share."""
        rows = []
        for some in np.array_split(self.shares.argsort(kind="stable"), 3):
            least, most = self.shares[some[[0, -1]]]
            what = f"... whose bird has {least:.2f} to {most:.2f}"
            condition = Condition(self.condition.name, what, "third")
            rows.append(Row(condition, self.shares[some], self.side, self.hits[:, :, some]))
        return rows


def read_rows(out: Path, backbone: str, seeds: Sequence[int]) -> list[Row]:
    rows = []
    for condition in CONDITIONS:
        files = [out / backbone / condition.name / f"seed-{seed}.json" for seed in seeds]
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if not runs:
            continue
        folder = out / "pictures" / condition.name
        shares = json.loads((folder / "shares.json").read_text(encoding="utf-8"))
        test = PictureFolder(folder / "test")
        side = statistics.fmean(max(test.size(index)) for index in range(len(test)))
        hits = 100.0 * np.array([[run[stream] for stream in STREAMS] for run in runs])
        hits = np.concatenate([hits, hits[:, 2:] - hits[:, :1]], axis=1)
        row = Row(condition, np.array([shares[name] for name in runs[0]["names"]]), side, hits)
        rows += [row, *(row.thirds() if condition.name == "whole" else [])]
    return rows


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| pictures | test pictures | bird's share of the side | px | seeds | global | local "
        "| fused | fused - global | error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.condition.what, f"{row.shares.size}", f"{row.shares.mean():.2f}"]
        cells += [f"{row.side:.0f}", f"{len(row.hits)}"]
        for values in row.hits.mean(-1).T:
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        lines.append(f"| {' | '.join(cells)} | {row.error:.1f} |")
    return "\n".join(lines)


def figure_of(rows: Sequence[Row]) -> Figure:
    """Draw the gain over the bird's share, the size and the blur, the whole pictures in each."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[str, tuple[str, Callable[[Row], float]]] = {
        "cut": ("bird's share of the picture's side", lambda row: row.shares.mean()),
        "scale": ("longer side in pixels", lambda row: row.side),
        "blur": (f"blur: sigma in pixels at {BLURRED_SIDE}", lambda row: row.condition.by),
    }
    every = figure.subplots(1, 3, sharey=True)
    for axes, (change, (label, x)) in zip(every, panels.items(), strict=True):
        some = [row for row in rows if row.condition.change in ("", change)]
        if some:
            points = sorted((x(row), row.hits[:, -1].mean(), row.error) for row in some)
            at, gain, error = np.array(points).T
            axes.errorbar(at, gain, yerr=error, fmt="o-", color="#4477aa", capsize=3)
        axes.axhline(0, color="#bbbbbb", linewidth=1)
        axes.grid(axis="y", color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("fused - global,\npoints of top-1")
    return figure


if __name__ == "__main__":
    main()
