"""Measure label-free boxes on real birds, with CUB's bounding boxes and parts.

    python benchmarks/boxes.py --data CUB_200_2011 --patches PATCHES --weights FILE

A linear head is trained on the pooled features of the training pictures (frozen backbone, 224
pixels), as the frozen examples train the global stream; it is then applied to every cell of the map
at 448. `--validate` measures on the training pictures instead, each with a head that was trained
without its fifth of them, and varies what `patches.py` fixes: there the numbers were chosen.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention import FeatureBackbone
from recurrent_attention.data import CUB200, TwoStreamDataset, find_patch_files, read_patch_file
from recurrent_attention.ops import proposal as patches
from recurrent_attention.ops.cell_offset import measure_cell_offset
from recurrent_attention.ops.proposal import propose_boxes, propose_mixed_boxes, saliency

HEAD = ("beak", "crown", "forehead", "left eye", "right eye")  # gives the .71 of the authors' boxes
FOLDS = 5
NUM_BOXES = 10
PASS = 8  # pictures at once


@torch.no_grad()
def run_backbone(
    backbone: FeatureBackbone, split: CUB200, head_size: int, map_size: int
) -> tuple[Tensor, Tensor]:
    """Pooled features (n 2 c) at the head's size, as they are and mirrored, and maps (n c h w)."""
    whole = {n: torch.tensor([[0.0, 0.0, *split.size(i)]]) for i, n in enumerate(split.names)}
    look = {key: backbone.data_config[key] for key in ("mean", "std", "interpolation")}
    data = TwoStreamDataset(split, whole, image_size=head_size, patch_size=map_size, **look)
    pooled, maps = [], []
    for some in torch.split(torch.arange(len(split)), PASS):
        views = [data.fixed_views(int(index)) for index in some]
        small = torch.stack([image for image, _ in views])
        both = [reduce(backbone(x), "b c h w -> b c", "mean") for x in (small, small.flip(-1))]
        pooled.append(torch.stack(both, dim=1))
        maps.append(backbone(torch.cat([large for _, large in views])).half())
    return torch.cat(pooled), torch.cat(maps)


def train_head(pooled: Tensor, labels: Tensor, seed: int) -> nn.Linear:
    """Train a linear classifier by the recipe of the frozen examples (docs/results.md)."""
    torch.manual_seed(seed)
    head = nn.Linear(pooled.shape[2], int(labels.max()) + 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    epochs, batch = 15, 32
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=1 / epochs
    )
    for _ in range(epochs):
        for some in torch.randperm(len(labels)).split(batch)[: len(labels) // batch]:
            mirrored = torch.randint(2, (len(some),))
            logits = head(pooled[some, mirrored])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[some], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return head


@torch.no_grad()
def classify_cells(head: nn.Linear, maps: Tensor) -> Tensor:
    logits = [
        einsum(head.weight, some.float(), "k c, b c h w -> b k h w") for some in maps.split(64)
    ]
    return torch.cat(logits) + rearrange(head.bias, "k -> k 1 1")


def activation_map(cell_logits: Tensor) -> Tensor:
    """The class activation map of the prediction, weighted by the probabilities, for comparison."""
    probabilities = reduce(cell_logits, "b k h w -> b k", "mean").softmax(1)
    return einsum(probabilities, cell_logits, "b k, b k h w -> b h w").clamp(min=0)


class Truth:
    """The annotations of a split, as shares of each picture's width and height."""

    def __init__(self, split: CUB200) -> None:
        self.sizes = torch.tensor([split.size(i) for i in range(len(split))]).float()
        self.birds = torch.tensor([split.bounding_boxes[n] for n in split.names])
        self.birds /= self.sizes.repeat(1, 2)
        names = sorted({part for parts in split.parts.values() for part in parts})
        self.points = torch.full((len(split), len(names), 2), torch.nan)  # NaN: not visible
        for picture, name in enumerate(split.names):
            for part, xy in split.parts[name].items():
                self.points[picture, names.index(part)] = torch.tensor(xy) / self.sizes[picture]
        self.is_head = torch.tensor([name in HEAD for name in names])

    def row(self, name: str, boxes: Tensor) -> str:
        """Measure boxes (n p 4), shares of the picture, and format a row of the table."""
        corners = torch.maximum(boxes[:, :, :2], self.birds[:, None, :2])
        ends = torch.minimum(boxes[:, :, 2:], self.birds[:, None, 2:])
        areas = (boxes[:, :, 2:] - boxes[:, :, :2]).prod(2)
        on_bird = (ends - corners).clamp(min=0).prod(2) / areas
        points = self.points[:, None]
        inside = ((points >= boxes[:, :, None, :2]) & (points <= boxes[:, :, None, 2:])).all(3)
        visible = ~self.points[:, :, 0].isnan()
        first, three = inside[:, 0], inside[:, :3].any(1)
        shares = [found.sum(1) / visible.sum(1) for found in (first, three)]
        has_head = (visible & self.is_head).any(1)
        head = (first & self.is_head).any(1)[has_head].float()
        columns = [
            [on_bird[:, 0], on_bird[:, :3], on_bird],
            shares,
            [head],
            [areas[:, 0], areas[:, :3], areas],
        ]
        cells = [", ".join(f"{float(v.mean()):.3f}"[1:] for v in values) for values in columns]
        return f"| {name} | {' | '.join(cells)} |"


def fixed_boxes(count: int) -> dict[str, Tensor]:
    """The centre square of half the side, and squares at random of about the authors' size."""
    generator = torch.Generator().manual_seed(0)
    sides = 0.3 + 0.25 * torch.rand(count, NUM_BOXES, 1, generator=generator)
    corners = torch.rand(count, NUM_BOXES, 2, generator=generator) * (1 - sides)
    centre = torch.tensor([0.25, 0.25, 0.75, 0.75])
    return {
        "centre square, half the side": centre.expand(count, NUM_BOXES, 4),
        "random squares, side .30 - .55": torch.cat([corners, corners + sides], dim=2),
    }


def print_variations(truth: Truth, cell_logits: Tensor, norm: Tensor, offset: float) -> None:
    """Vary one number, or the saliency, at a time."""
    ours = saliency(cell_logits)
    trial = activation_map(cell_logits)
    trial = trial / trial.amax((1, 2), keepdim=True).clamp(min=1e-6)
    trial = trial + norm / norm.amax((1, 2), keepdim=True)
    variations = [
        ("squared saliency", ours.square(), {}, {}),
        ("class activation map of the prediction", activation_map(cell_logits), {}, {}),
        ("the same plus L2 norm (first trial)", trial, {}, {}),
        *((f"cell offset {o}", ours, {}, {"cell_offset": o}) for o in (0.0, -0.25, -0.75)),
        *((f"area exponent {e}", ours, {"AREA_EXPONENT": e}, {}) for e in (0.25, 0.3, 0.4, 0.5)),
        *((f"IoU threshold {t}", ours, {}, {"iou_threshold": t}) for t in (0.2, 0.3, 0.5, 0.6)),
        *(
            (
                f"sides {', '.join(f'{5 * s} %' for s in sides)}",
                ours,
                {},
                {"window_sides": [s / 20 for s in sides]},
            )
            for sides in ((5, 7, 10), (6, 8), (7, 8, 9), (6, 7, 8, 9, 10), (5, 6, 8, 10, 12))
        ),
    ]
    for name, where, constants, options in variations:
        with ExitStack() as stack:
            for constant, value in constants.items():
                stack.enter_context(patch.object(patches, constant, value))
            options = {"cell_offset": offset} | options
            boxes = propose_boxes(where, 1, num_boxes=NUM_BOXES, **options)
        print(truth.row(name, boxes), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--patches", type=Path, required=True)
    add("--weights", type=Path, required=True)
    add("--backbone", default="mobilenetv2_100")
    add("--head-size", type=int, default=224, help="pixels the head is trained at (default: 224)")
    add("--map-size", type=int, default=448, help="pixels the map is computed at (default: 448)")
    add("--seed", type=int, default=0, help="of the head (default: 0)")
    add("--validate", action="store_true", help="cross-validate on the training pictures")
    args = parser.parse_args()
    backbone = FeatureBackbone(
        args.backbone, img_size=args.map_size, pretrained=True,
        pretrained_cfg_overlay={"file": str(args.weights)},
    ).eval()  # fmt: skip
    offset = measure_cell_offset(backbone, args.map_size)
    train, test = CUB200(args.data, "train"), CUB200(args.data, "test")
    pooled, maps = run_backbone(backbone, train, args.head_size, args.map_size)
    labels = torch.tensor(train.labels)
    if args.validate:
        split = train
        fold = torch.zeros(len(labels), dtype=torch.long)
        generator = torch.Generator().manual_seed(args.seed)
        for label in labels.unique():
            members = (labels == label).nonzero()[:, 0]
            members = members[torch.randperm(len(members), generator=generator)]
            fold[members] = torch.arange(len(members)) % FOLDS
        cell_logits = torch.empty(len(labels), int(labels.max()) + 1, *maps.shape[2:])
        for held_out in range(FOLDS):
            out = fold == held_out
            head = train_head(pooled[~out], labels[~out], args.seed + held_out)
            cell_logits[out] = classify_cells(head, maps[out])
    else:
        split = test
        head = train_head(pooled, labels, args.seed)
        _, maps = run_backbone(backbone, test, args.head_size, args.map_size)
        cell_logits = classify_cells(head, maps)
    norm = torch.cat([some.float().norm(dim=1) for some in maps.split(64)])
    truth = Truth(split)
    authors = read_patch_file(find_patch_files(args.patches)[0 if split is train else 1], split)
    theirs = torch.stack([authors[name] for name in split.names])
    theirs = theirs / truth.sizes.repeat(1, 2)[:, None]
    kind = "training" if split is train else "test"
    print(f"{len(split)} {kind} pictures, cell offset {offset}\n")
    print(
        "| boxes | share on the bird: first, first three, ten | visible parts inside: first, first "
        "three | a head part inside, first | mean area: first, first three, ten |"
    )
    print("|---|---|---|---|---|")
    print(truth.row("authors' (made with labels)", theirs))
    for name, boxes in fixed_boxes(len(split)).items():
        print(truth.row(name, boxes))
    options = {"num_boxes": NUM_BOXES, "cell_offset": offset}
    print(truth.row("L2 norm of the map, our windows", propose_boxes(norm, 1, **options)))
    ours = saliency(cell_logits)
    print(truth.row("ours", propose_boxes(ours, 1, **options)), flush=True)
    with_wide = propose_mixed_boxes(ours, (1, 1), NUM_BOXES, offset)
    print(truth.row("ours, the last three wide (the default)", with_wide), flush=True)
    if args.validate:
        print_variations(truth, cell_logits, norm, offset)


if __name__ == "__main__":
    main()
