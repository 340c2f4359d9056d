"""Compare heads on frozen features: the paper's against simpler ones, and the two-scale control.

All rows share the training: the recipe of examples/cub_reproduce.py, its validation split and its
choice of the epoch, over `--seeds` seeds.

    python benchmarks/frozen_heads.py --data CUB_200_2011 --patches PATCHES --weights FILE

The control is a second global view at another scale instead of patches: what the patches bring
beyond it is due to looking at parts.
"""

import argparse
import statistics
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from recurrent_attention import RefinedAttentionOutput, TwoStreamClassifier
from recurrent_attention.data import CUB200, TwoStreamDataset, find_patch_files, read_patch_file
from recurrent_attention.training import Recipe, evaluate, fit


class NoRecurrence(nn.Module):
    """Stands in for the recurrent head: passes the pooled features on as the only state."""

    def forward(self, features: Tensor) -> RefinedAttentionOutput:
        if features.ndim == 4:
            features = reduce(features, "b c h w -> b c", "mean")
        states = rearrange(features, "b c -> b 1 c")
        return RefinedAttentionOutput(features, states, torch.ones_like(states[:, :, 0]))


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
    add("--head-lr", type=float, default=1e-3)
    add("--label-smoothing", type=float, default=0.1)
    add("--train-patches", type=int, default=2)
    add("--rows", type=int, nargs="+", help="only these rows of the table, from 1 (default: all)")
    add("--cache-dir", type=Path, default=Path(".cache"))
    args = parser.parse_args()
    train, test = CUB200(args.data, "train"), CUB200(args.data, "test")
    boxes = {}
    for path, split in zip(find_patch_files(args.patches), (train, test), strict=True):
        boxes |= read_patch_file(path, split)
    whole = {}
    for split in (train, test):
        for index, name in enumerate(split.names):
            whole[name] = torch.tensor([[0.0, 0.0, *split.size(index)]])
    rows = [
        # name, boxes, patch size, patches in training, at evaluation, T (0: no recurrence)
        ("patches, paper's head, T = 10", boxes, 224, args.train_patches, 10, 10),
        ("patches, paper's head, T = 1", boxes, 224, args.train_patches, 10, 1),
        ("patches, no recurrence", boxes, 224, args.train_patches, 10, 0),
        ("first patch only, T = 10", boxes, 224, 1, 1, 10),
        ("control: whole picture at 448, T = 10", whole, 448, 1, 1, 10),
        ("control: whole picture at 448, no recurrence", whole, 448, 1, 1, 0),
    ]
    overlay = {"pretrained_cfg_overlay": {"file": str(args.weights)}}
    if args.rows:
        rows = [rows[number - 1] for number in args.rows]
    print("| local stream | global | local | fused | fused - global |\n|---|---|---|---|---|")
    for name, given, patch_size, train_patches, test_patches, steps in rows:
        found = []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            model = TwoStreamClassifier(
                args.backbone, len(train.class_names), pretrained=True, backbone_kwargs=overlay,
                image_size=224, patch_size=patch_size, num_steps=max(steps, 1),
            )  # fmt: skip
            if steps == 0:
                model.attention = NoRecurrence()
                model.local_head = nn.Linear(model.local_backbone.out_channels, model.num_classes)
            look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
            look |= {"image_size": 224, "patch_size": patch_size}
            rest, validation = train.split(0.15, seed=seed)
            recipe = Recipe(
                epochs=args.epochs, head_lr=args.head_lr, label_smoothing=args.label_smoothing,
                freeze=True, seed=seed,
            )  # fmt: skip
            common = {"cache_dir": args.cache_dir / "features", "progress": False}
            fit(
                model,
                TwoStreamDataset(rest, given, num_patches=train_patches, train=True, **look),
                TwoStreamDataset(validation, given, num_patches=test_patches, **look),
                recipe=recipe,
                **common,
            )
            data = TwoStreamDataset(test, given, num_patches=test_patches, **look)
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
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
