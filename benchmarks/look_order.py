"""Study the order, the size and the cost of looks on real birds, by cross-validation.

    python benchmarks/look_order.py --data CUB_200_2011 --weights FILE --out look_order.md

Trained are the heads of `patch_weighting="anytime"` on frozen backbones, in five folds of the
training pictures; no test picture is read, none is mirrored. The boxes of a picture, and the places
to zoom to, come from classifiers that were trained on the other folds. The order by expected gain
is learned from heads that saw neither the picture nor the fold that is measured. The table is
written after each row, and features are kept: most of the time goes into 40 views a picture.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from look_study import CONFIDENCE, FOLDS, SHOWN, Order, Study, folds_of
from pages import machine, table
from torch import Tensor
from torchvision.ops import box_area
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._files import whole_file
from recurrent_attention._settings import Settings
from recurrent_attention.backbone.cost import cost_of_step
from recurrent_attention.data import CUB200
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.training.processes import Resources

TEN = [0, 1, 2, 3, 4, 5, 6, 12, 13, 14]  # those of a proposal of ten
MORE_WIDE = [15, 16]
# Places of the ten, and of the two more below.
SMALL_FIRST = [0, 7, 1, 8, 2, 9, 3, 4, 5, 6]
WIDE_FIRST = [7, 0, 8, 1, 9, 2, 3, 4, 5, 6]


def fixed(places: Sequence[int], count: int) -> Order:
    return lambda seed, measured: torch.tensor(places).expand(count, -1)


def learned(scores: Sequence[Sequence[Tensor] | Tensor]) -> Order:
    return lambda seed, measured: best_first(scores[seed][measured])


def best_first(scores: Tensor) -> Tensor:
    return scores.argsort(dim=1, descending=True, stable=True)


def study_of(args: argparse.Namespace) -> Study:
    pictures = CUB200(args.data, "train")
    pictures = pictures.subset([i for i, k in enumerate(pictures.labels) if k < args.classes])
    torch._inductor.config.freezing = True
    model = TwoStreamClassifier(
        args.backbone, len(pictures.class_names), class_names=pictures.class_names,
        pretrained=True, backbone_kwargs={"pretrained_cfg_overlay": {"file": str(args.weights)}},
        image_size=224, patch_size=224, num_patches=len(TEN), patch_weighting="anytime",
        fusion_weight=2.0,
    ).eval()  # fmt: skip
    for backbone in (model.global_backbone, model.local_backbone):
        backbone.requires_grad_(False).compile(dynamic=False)
    _ = model.cell_offset  # measured once, for all copies
    resources = Resources(
        model, device="cpu", num_workers=0, progress=True, cache_dir=args.cache_dir
    )
    return Study(model, pictures, resources, folds_of(torch.tensor(pictures.labels)))


def macs(args: argparse.Namespace, side: int) -> tuple[float, float]:
    """Count billion multiply-adds of a whole picture of that side, and of a look."""
    settings = Settings(num_classes=2, backbone=args.backbone, image_size=side, patch_size=224)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = TwoStreamNetwork(settings)
    cost = cost_of_step(model.train(), batch_size=2, num_patches=1)
    return cost.global_macs / 1e9, cost.local_macs / 1e9


Row = tuple[str, int, Tensor, Order]  # name, side of the proposal, bank of looks, order


def rows_of(study: Study, seeds: int, sides: Sequence[int]) -> Iterator[Row]:
    """Yield what is compared; compute what it needs when it is due."""
    count = len(study.labels)
    proposers = study.proposers()
    boxes = study.boxes(proposers, 448)[:, TEN + MORE_WIDE]
    bank = study.look(boxes)
    areas = box_area(boxes[:, :10].flatten(0, 1)).view(count, 10)

    def random(seed: int, _: int) -> Tensor:
        return best_first(torch.rand(count, 10, generator=torch.Generator().manual_seed(seed)))

    for name, order in (
        ("as proposed: seven small, three wide", fixed(range(10), count)),
        ("small, wide, small, wide, ...", fixed(SMALL_FIRST, count)),
        ("wide, small, wide, small, ...", fixed(WIDE_FIRST, count)),
        ("largest first", lambda *_: best_first(areas)),
        ("smallest first", lambda *_: best_first(-areas)),
        ("random", random),
        ("wide, small, ..., five of each", fixed([7, 0, 8, 1, 9, 2, 10, 3, 11, 4], count)),
    ):
        yield name, 448, bank, order
    about = study.about(boxes[:, :10], 448)
    gains = [study.gains(bank[:, :10], seed) for seed in range(seeds)]
    expected = [[study.expected(about, own[f], f) for f in range(FOLDS)] for own in gains]
    for name, scores in (
        ("largest expected gain first", expected),
        ("largest true gain first (it reads the label: a bound, no method)", gains),
    ):
        yield name, 448, bank, learned(scores)
    for side in sides:
        theirs = study.look(study.boxes(proposers, side)[:, TEN])
        yield f"as proposed, from {side}", side, theirs, fixed(range(10), count)
        yield f"wide, small, ..., from {side}", side, theirs, fixed(WIDE_FIRST, count)
    zoomed = study.zoomed(bank[:, :10], boxes[:, [0, 7]])
    more = torch.cat([bank, study.look(zoomed)], dim=1)
    for name, places in (
        ("as proposed, the second zooms into the first", [0, 12, *range(1, 9)]),
        ("wide, zoom into it, small, wide, small, ...", [7, 13, 0, 8, 1, 9, 2, 3, 4, 5]),
        ("as proposed, an eleventh zooms into the first", [*range(10), 12]),
        ("as proposed, an eleventh zooms into the first wide", [*range(10), 13]),
        ("control: as proposed, an eleventh is one more wide", [*range(10), 10]),
    ):
        yield name, 448, more, fixed(places, count)


def line_of(found: Tensor, base: Tensor) -> list[str]:
    """Format means over the pictures (n c), and paired differences to the first line's."""
    cells = []
    for own, first in zip(found.T, base.T, strict=True):
        change = own - first
        error = float(change.std()) / len(change) ** 0.5
        paired = f" ({float(change.mean()):+.1f} ± {error:.1f})" if bool(change.any()) else ""
        cells.append(f"{float(own.mean()):.1f}{paired}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--weights", type=Path, required=True)
    add("--out", type=Path, required=True, help="a file for the table")
    add("--backbone", default="mobilenetv2_100")
    add("--classes", type=int, default=200, help="only the first classes (default: 200)")
    add("--seeds", type=int, default=2, help="of the heads and of the random order (default: 2)")
    add("--sides", type=int, nargs="+", default=[224, 336], help="to propose at, besides 448")
    add("--cache-dir", type=Path, default=Path(".cache/look_order"))
    args = parser.parse_args()
    study = study_of(args)
    whole, look = macs(args, study.model.image_size)
    text = (
        f"{len(study.labels)} training pictures, {args.seeds} seeds, {FOLDS} folds. Top-1 of both "
        "streams after 0, 1, 2, ... looks in %; in brackets the paired difference to the first row "
        f"± its standard error over the pictures. GMACs a picture: {whole:.2f} for the whole, "
        f"{look:.2f} for a look. {machine()}."
    )
    heads = ["looks", *map(str, SHOWN), "all", "mean of 1 to 10", f"stopped at {CONFIDENCE}"]
    heads += ["its looks", "GMACs: proposal", "all", "stopped"]
    lines: list[list[str]] = []
    base: Tensor | None = None
    for name, side, bank, order in tqdm(rows_of(study, args.seeds, args.sides), desc="rows"):
        every = [study.cross_validate(bank, order, seed) for seed in range(args.seeds)]
        found = torch.stack([study.measure(logits) for logits in every]).mean(0)
        found[:, :-2] *= 100
        base = found if base is None else base
        proposal = 0.0 if side == study.model.image_size else macs(args, side)[0]
        looks, into = found[:, -2:].mean(0).tolist()
        costs = [proposal, whole + proposal + (every[0].shape[1] - 1) * look]
        costs.append(whole + into * proposal + looks * look)
        cells = [*line_of(found[:, :-1], base[:, :-1]), *(f"{cost:.2f}" for cost in costs)]
        lines.append([name, *cells])
        with whole_file(args.out) as path:
            path.write_text(f"{table(heads, lines)}\n\n{text}\n", encoding="utf-8")
        tqdm.write(" | ".join(lines[-1]))


if __name__ == "__main__":
    main()
