"""Compare heads on frozen features: the paper's against others, and the two-scale control.

All rows share the validation split, the choice of the epoch and the seeds. The heads' rate and the
fusion weight of each row are those that 5-fold cross-validation on the training birds preferred.

    python benchmarks/frozen_heads.py --data CUB_200_2011 --patches PATCHES --weights FILE

PATCHES is the folder of the authors' files, or a file of boxes, such as the boxes.json that
cub_reproduce.py writes into its run folder with `--patches auto`.

The control is a second global view at another scale instead of patches: what the patches bring
beyond it is due to looking at parts.
"""

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from recurrent_attention import RefinedAttentionOutput, TwoStreamClassifier
from recurrent_attention.data import (
    CUB200,
    TwoStreamDataset,
    find_patch_files,
    read_boxes,
    read_patch_file,
)
from recurrent_attention.training import Recipe, evaluate, fit


class NoRecurrence(nn.Module):
    """Stands in for the recurrent head: passes the pooled features on as the only state."""

    def forward(self, features: Tensor) -> RefinedAttentionOutput:
        if features.ndim == 4:
            features = reduce(features, "b c h w -> b c", "mean")
        states = rearrange(features, "b c -> b 1 c")
        return RefinedAttentionOutput(features, states, torch.ones_like(states[:, :, 0]))


class Row(NamedTuple):
    """One local stream; it looks at patches of 224 pixels, or at the whole picture at 448."""

    name: str
    weighting: str = "equal"
    steps: int = 10  # 0: no recurrence
    train_patches: int = 4
    patches: int = 10
    head_lr: float = 1e-3
    fusion_weight: float = 1.0
    whole: bool = False


ROWS = (
    Row("patches, paper's head, T = 10"),
    Row("patches, paper's head, T = 1", steps=1),
    Row("patches, no recurrence", steps=0),
    Row("first patch only, T = 10", train_patches=1, patches=1),
    Row("patches weighted, linear", "linear", train_patches=10, head_lr=2e-3),
    Row("the same, local logits doubled", "linear", 10, 10, 10, 2e-3, 2.0),
    Row("patches weighted, recurrent", "recurrent", train_patches=10),
    Row("control: whole picture at 448, T = 10", "equal", 10, 1, 1, whole=True),
    Row("control: whole picture at 448, no recurrence", "equal", 0, 1, 1, 3e-3, whole=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--patches", type=Path, required=True)
    add("--weights", type=Path, required=True)
    add("--backbone", default="mobilenetv2_100")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=15)
    add("--label-smoothing", type=float, default=0.1)
    add("--rows", type=int, nargs="+", help="only these rows of the table, from 1 (default: all)")
    add("--cache-dir", type=Path, default=Path(".cache"))
    args = parser.parse_args()
    train, test = CUB200(args.data, "train"), CUB200(args.data, "test")
    boxes = {}
    if args.patches.is_dir():
        for path, split in zip(find_patch_files(args.patches), (train, test), strict=True):
            boxes |= read_patch_file(path, split)
    else:
        for split in (train, test):
            boxes |= read_boxes(args.patches, split)
    whole = {}
    for split in (train, test):
        for index, name in enumerate(split.names):
            whole[name] = torch.tensor([[0.0, 0.0, *split.size(index)]])
    overlay = {"pretrained_cfg_overlay": {"file": str(args.weights)}}
    rows = [ROWS[number - 1] for number in args.rows] if args.rows else ROWS
    print("| local stream | global | local | fused | fused - global |\n|---|---|---|---|---|")
    for row in rows:
        given, patch_size = (whole, 448) if row.whole else (boxes, 224)
        found = []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            model = TwoStreamClassifier(
                args.backbone, len(train.class_names), pretrained=True, backbone_kwargs=overlay,
                image_size=224, patch_size=patch_size, num_steps=max(row.steps, 1),
                patch_weighting=row.weighting, fusion_weight=row.fusion_weight,
            )  # fmt: skip
            if row.steps == 0:
                model.attention = NoRecurrence()
                model.local_head = nn.Linear(model.local_backbone.out_channels, model.num_classes)
            rest, validation = train.split(0.15, seed=seed)
            recipe = Recipe(
                epochs=args.epochs, head_lr=row.head_lr, label_smoothing=args.label_smoothing,
                freeze=True, seed=seed,
            )  # fmt: skip
            common = {"cache_dir": args.cache_dir / "features", "progress": False}
            fit(
                model,
                TwoStreamDataset.for_model(
                    model, rest, given, num_patches=row.train_patches, train=True
                ),
                TwoStreamDataset.for_model(model, validation, given, num_patches=row.patches),
                recipe=recipe,
                **common,
            )
            data = TwoStreamDataset.for_model(model, test, given, num_patches=row.patches)
            found.append(evaluate(model, data, frozen=True, **common))
        cells = []
        for values in (
            [100 * f.global_top1 for f in found],
            [100 * f.local_top1 for f in found],
            [100 * f.fused_top1 for f in found],
            [100 * (f.fused_top1 - f.global_top1) for f in found],
        ):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
        print(f"| {row.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
