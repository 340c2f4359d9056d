r"""Train and evaluate the two streams: the paper's VGG / CUB-200-2011 set-up, and smaller ones.

Without arguments it draws its own birds and trains a tiny backbone from scratch on a CPU:

    python examples/cub_reproduce.py

On CUB-200-2011, frozen pretrained backbones, patches where the global stream looks:

    python examples/cub_reproduce.py --data CUB_200_2011 --freeze \
        --backbone mobilenetv2_100 --image-size 224

The authors' own recipe and patch files (VGG-19 at 448/224; its best epoch is picked on the test
set):

    python examples/cub_reproduce.py --data CUB_200_2011 --patches PATCHES --protocol paper

On several processes or machines (docs/guides/several-gpus.md), each with its share of every batch:

    torchrun --nproc_per_node 8 examples/cub_reproduce.py --data CUB_200_2011
"""

import argparse
import platform
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import PartialState
from drawn_birds import SyntheticBirds
from PIL import Image
from torch import Tensor

import recurrent_attention
from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import (
    CUB200,
    Pictures,
    TwoStreamDataset,
    find_patch_files,
    read_boxes,
    read_patch_file,
    write_boxes,
)
from recurrent_attention.training import (
    Evaluation,
    FitResult,
    Recipe,
    RunFolder,
    calibrate,
    draw_curves,
    evaluate,
    fit,
    fit_global_head,
    join_processes,
    keep_freed_memory,
    propose_boxes_for,
)

VALIDATION_SHARE = 0.15
EXPLAINED = 3  # test pictures

# The three set-ups: what holds where nothing is given on the command line. Why the first two are as
# they are: docs/lab/trials.md.
SETTINGS = {
    #                   drawn birds    --data     --protocol paper
    "backbone":         ("test_resnet", "vgg19",  "vgg19"),
    "image_size":       (64,            448,      448),
    "patch_size":       (64,            224,      224),
    "patch_weighting":  ("equal",       "anytime", "equal"),
    "train_patches":    (2,             10,       1),
    "num_patches":      (10,            10,       1),
    "num_steps":        (4,             10,       10),
    "hidden_size":      (128,           512,      512),
    "fusion_weight":    (1.0,           2.0,      1.0),
    "epochs":           (34,            15,       90),
    "batch_size":       (16,            32,       32),
    "lr":               (1.5e-3,        1e-4,     1e-3),
    "head_lr":          (2e-3,          2e-3,     1e-3),
    "weight_decay":     (0.05,          0.05,     0.0005),
    "warmup_epochs":    (2.0,           1.0,      0.0),
    "label_smoothing":  (0.0,           0.1,      0.0),
}  # fmt: skip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    def default(name: str) -> str:
        return "(default: {} on drawn birds, {} with --data, {} for the paper)".format(
            *SETTINGS[name]
        )

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="CUB-200-2011 or a part of it (default: draw birds)")
    add(
        "--download",
        action="store_true",
        help="download it into the folder --data, 1.15 GB (default: it is there)",
    )
    add(
        "--skip-unreadable",
        action="store_true",
        help="leave out pictures that cannot be read, and count them (default: stop at the first)",
    )
    add(
        "--patches",
        default="auto",
        help="auto: where the global stream's classifier tells the classes apart, after it was "
        "trained on the training pictures; or a file of boxes that write_boxes wrote; or the "
        "folder of the authors' train_patches.npy and test_patches.npy (default: auto with "
        "--data; drawn birds bring their own)",
    )
    add(
        "--patch-weighting",
        choices=["equal", "linear", "recurrent", "anytime"],
        help="equal: T looks at each patch, as in the paper; the others: one look at each, by a "
        f"learned weight, and with anytime an answer after each {default('patch_weighting')}",
    )
    add(
        "--protocol",
        choices=["honest", "paper"],
        default="honest",
        help="honest: validation carved out of train chooses the epoch, test is touched once; "
        "paper: the authors' recipe, which picks the epoch on test (default: honest)",
    )
    add("--backbone", help=f"any timm model {default('backbone')}")
    add(
        "--weights",
        help="file with pretrained weights, or none to train from scratch (default: "
        "timm downloads them with --data, none on drawn birds)",
    )
    add(
        "--freeze",
        action="store_true",
        help="train the heads only, on cached features (default: fine-tune all)",
    )
    add(
        "--fusion-weight",
        type=float,
        help=f"of the local logits in the sum {default('fusion_weight')}",
    )
    add("--epochs", type=int, help=default("epochs"))
    add("--batch-size", type=int, help=default("batch_size"))
    add("--accumulation-steps", type=int, default=1, help="batches per update (default: 1)")
    add("--seed", type=int, default=0, help="(default: 0)")
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="(default: fp32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)")
    add("--num-steps", type=int, help=f"T, looks at each patch {default('num_steps')}")
    add("--num-patches", type=int, help=f"patches per image at evaluation {default('num_patches')}")
    add(
        "--train-patches",
        type=int,
        help=f"patches per image in training {default('train_patches')}",
    )
    add("--hidden-size", type=int, help=f"d of the recurrence {default('hidden_size')}")
    add("--image-size", type=int, help=default("image_size"))
    add("--patch-size", type=int, help=default("patch_size"))
    add(
        "--output-stride",
        type=int,
        choices=[8, 16, 32],
        help="of the backbones: 8 makes maps of explanations 4 times as fine as 32, and is slower "
        "(default: timm's)",
    )
    add("--lr", type=float, help=f"learning rate of the backbones {default('lr')}")
    add("--head-lr", type=float, help=f"learning rate of new layers {default('head_lr')}")
    add("--weight-decay", type=float, help=default("weight_decay"))
    add("--warmup-epochs", type=float, help=default("warmup_epochs"))
    add("--label-smoothing", type=float, help=default("label_smoothing"))
    add(
        "--pictures-per-class",
        type=int,
        help="use only so many training and test pictures of each class (default: all)",
    )
    add(
        "--run-dir",
        type=Path,
        help="new folder for the results (default: runs/cub_reproduce-DATE-TIME)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in --run-dir, if there is one (default: a new folder)",
    )
    add(
        "--cache-dir",
        type=Path,
        default=Path(".cache"),
        help="folder for drawn birds and frozen features (default: .cache)",
    )
    add("--workers", type=int, default=0, help="processes that read pictures (default: 0)")
    args = parser.parse_args(arguments)
    if args.resume and args.run_dir is None:
        parser.error("--resume needs --run-dir DIR, the folder of the run to go on with")
    if args.download and args.data is None:
        parser.error("--download needs --data DIR, the folder to download into")
    if args.data is None and args.patches != "auto":
        parser.error("--patches needs --data DIR: drawn birds bring their own patches")
    if args.protocol == "paper" and args.data is not None and args.patches == "auto":
        parser.error("--protocol paper needs --patches DIR, the folder of the authors' patch files")
    if args.protocol == "paper" and args.freeze:
        parser.error("--protocol paper trains everything; leave out --freeze")
    set_up = 2 if args.protocol == "paper" else 0 if args.data is None else 1
    for name, values in SETTINGS.items():
        if getattr(args, name, None) is None:
            setattr(args, name, values[set_up])
    return args


class Squared(Pictures):
    """Pictures resized to a square first: the authors cut their patches out of these."""

    def __init__(self, pictures: Pictures, side: int) -> None:
        super().__init__(pictures.root, pictures.names, pictures.labels, pictures.class_names)
        self.side = side

    def open(self, index: int, *, reduction: int = 1) -> Image.Image:
        """Open the square; whole, since patches are cut out of it at its own size."""
        whole = super().open(index)
        return whole.resize((self.side, self.side), Image.Resampling.BILINEAR)

    def size(self, index: int) -> tuple[int, int]:
        return self.side, self.side


def first_of_each_class(pictures: Pictures, count: int | None) -> Pictures:
    if count is None:
        return pictures
    seen = [0] * len(pictures.class_names)
    chosen = []
    for index, label in enumerate(pictures.labels):
        seen[label] += 1
        if seen[label] <= count:
            chosen.append(index)
    return pictures.subset(chosen)


def read_pictures(args: argparse.Namespace) -> list[Pictures]:
    """Read the training and the test pictures, or draw them."""
    if args.data is not None:
        splits: list[Pictures] = [
            CUB200(args.data, split, download=args.download) for split in ("train", "test")
        ]
    else:
        counts = {}
        if args.pictures_per_class is not None:
            counts = dict.fromkeys(("train_per_class", "test_per_class"), args.pictures_per_class)
        name = "-".join(map(str, ["synthetic-birds", args.seed, *set(counts.values())]))
        root = args.cache_dir / name
        splits = [SyntheticBirds(root, s, seed=args.seed, **counts) for s in ("train", "test")]
    if args.protocol == "paper":
        return [Squared(split, args.image_size) for split in splits]
    return splits


def keep_readable(splits: list[Pictures], run: RunFolder, workers: int) -> list[Pictures]:
    """Leave out what cannot be read; which, and why, stands in skipped.json."""
    kept, skipped = [], {}
    for split in splits:
        readable, bad = split.readable(num_workers=workers)
        kept.append(readable)
        skipped |= {str(picture.path): picture.reason for picture in bad}
    run.write_json("skipped.json", skipped)
    if join_processes().is_main_process:
        print(f"{len(skipped)} of {sum(map(len, splits))} pictures cannot be read: skipped.json")
    return kept


def find_boxes(
    args: argparse.Namespace, splits: list[Pictures], used: list[Pictures]
) -> dict[str, Tensor]:
    """Read the boxes of whole splits, or read or propose those of the pictures that are used."""
    drawn, boxes = args.data is None, {}
    if drawn or Path(args.patches).is_dir():
        folder = splits[0].root.parent / "patches" if drawn else args.patches
        for split, patch_file in zip(splits, find_patch_files(folder), strict=True):
            boxes |= read_patch_file(patch_file, split)
    elif args.patches != "auto":
        for split in used:
            boxes |= read_boxes(args.patches, split)
    else:
        common = {"device": args.device, "num_workers": args.workers}
        # The same for every seed, so that all runs share their patches and cached features.
        scout = build_model(argparse.Namespace(**vars(args) | {"seed": 0}), used[0].class_names)
        fit_global_head(scout, used[0], **common)
        for split in used:
            boxes |= propose_boxes_for(
                scout, split, cache_dir=args.cache_dir / "proposals", **common
            )
    return boxes


def build_model(args: argparse.Namespace, class_names: tuple[str, ...]) -> TwoStreamClassifier:
    torch.manual_seed(args.seed)
    kwargs: dict[str, Any] = {}
    if args.output_stride is not None:
        kwargs["output_stride"] = args.output_stride
    pretrained = args.data is not None if args.weights is None else args.weights != "none"
    if pretrained and args.weights is not None:
        if not Path(args.weights).is_file():
            raise FileNotFoundError(f"Expected weights at {args.weights}, but there is no file.")
        kwargs["pretrained_cfg_overlay"] = {"file": args.weights}
    model = TwoStreamClassifier(
        args.backbone,
        len(class_names),
        pretrained=pretrained,
        backbone_kwargs=kwargs,
        image_size=args.image_size,
        patch_size=args.patch_size,
        num_patches=args.num_patches,
        hidden_size=args.hidden_size,
        num_steps=args.num_steps,
        patch_weighting=args.patch_weighting,
        fusion_weight=args.fusion_weight,
        global_head="conv" if args.protocol == "paper" else "linear",
        class_names=class_names,
    )
    if args.protocol == "paper":  # the authors left their LSTM as torch initialises it
        for cell in model.attention.cells:
            cell.reset_parameters()
    return model


def build_recipe(args: argparse.Namespace) -> Recipe:
    recipe = Recipe.paper() if args.protocol == "paper" else Recipe()
    return replace(
        recipe,
        epochs=args.epochs,
        batch_size=args.batch_size,
        accumulation_steps=args.accumulation_steps,
        lr=args.lr,
        head_lr=args.head_lr,
        weight_decay=args.weight_decay,
        decay_biases=True,  # as what docs/results.md reports was trained
        warmup_epochs=args.warmup_epochs,
        label_smoothing=args.label_smoothing,
        freeze=args.freeze,
        precision=args.precision,
        seed=args.seed,
    )


def explain_some(
    model: TwoStreamClassifier, test: Pictures, boxes: dict[str, Tensor], run: RunFolder
) -> None:
    """Draw where both streams look in a few test pictures, each of another class."""
    patches = 1 if model.patch_weighting == "equal" else model.num_patches
    for number in range(EXPLAINED):
        label = number * len(test.class_names) // EXPLAINED
        if label in test.labels:
            index = test.labels.index(label)
            shown = boxes[test.names[index]][:patches]
            found = model.explain(test[index][0], boxes=shown)
            found.save(run.path / f"explained-{number + 1}.png")


def report(result: dict[str, Any]) -> str:
    """Put the final numbers into a table of text."""
    rows = [
        ("", "global", "local", "fused"),
        (
            "test top-1 in %",
            *(f"{100 * result[f'test_{s}']:.2f}" for s in ("global", "local", "fused")),
        ),
    ]
    lines = ["{:<18}{:>9}{:>9}{:>9}".format(*row) for row in rows]
    lines += [
        f"fused - global      {100 * (result['test_fused'] - result['test_global']):+.2f} points",
        f"test pictures       {result['test_images']}, chance {100 / result['num_classes']:.1f} %",
        f"parameters          {result['parameters']:,}",
        f"images/s            training {result['train_images_per_second']:.1f}, "
        f"evaluation {result['test_images_per_second']:.1f}",
        f"epoch kept          {result['best_epoch']} of {result['epochs']}, chosen on "
        f"{result['chosen_on']}",
    ]
    if "stopping" in result:
        after = result["fused_top1_after"]
        each = ", ".join(
            f"{n}: {100 * after[n]:.2f}" for n in (0, 1, 2, 3, 5, 10) if n < len(after)
        )
        lines.append(f"after so many looks {each}")
        for one in result["stopping"]:
            lines.append(
                f"stopping at {one['confidence']:.2f}    {100 * one['top1']:.2f} with "
                f"{one['mean_looks']:.2f} looks"
            )
        lines.append(f"calibration error   {100 * result['calibration']:.1f} points")
    if result["chosen_on"] == "test":
        lines.append(
            "The best epoch was picked on the test set, as the authors' code does, with a random "
            "patch per picture: this number is flattered."
        )
    return "\n".join(lines)


def best_on_test(fitted: FitResult, num_images: int) -> Evaluation:
    """Return what the epoch that is best on test scored there, as the authors report it."""
    best = fitted.history[fitted.best_epoch - 1]
    scores = (best[f"val_{name}"] for name in ("loss", "global", "local", "fused"))
    return Evaluation(*scores, num_images, best["val_images_per_second"])


def numbers_of(final: Evaluation, fitted: FitResult) -> dict[str, Any]:
    return {
        "test_global": final.global_top1,
        "test_local": final.local_top1,
        "test_fused": final.fused_top1,
        "test_images": final.num_images,
        "train_images_per_second": max(r["images_per_second"] for r in fitted.history),
        "test_images_per_second": final.images_per_second,
        "best_epoch": fitted.best_epoch,
        **({} if final.answers is None else final.answers.by_looks()),
        **({} if final.answers is None else {"calibration": final.answers.calibration_error()}),
    }


def describe(args: argparse.Namespace, recipe: Recipe, arguments: list[str]) -> dict[str, Any]:
    """Say what was asked for and with which versions, for config.json."""
    return {
        "command": ["examples/cub_reproduce.py", *arguments],
        "arguments": vars(args),
        "recipe": asdict(recipe),
        "versions": {
            "recurrent_attention": recurrent_attention.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }


def prepare(
    args: argparse.Namespace, run: RunFolder, processes: PartialState
) -> tuple[Pictures, Pictures, dict[str, Tensor]]:
    """Return the training and the test pictures, and the boxes of both."""
    proposed = run.path / "boxes.json"
    with processes.main_process_first():  # that one draws birds, if they are not there
        splits = read_pictures(args)
        if proposed.is_file():  # the run that is resumed proposed them
            args.patches = proposed
    used = [first_of_each_class(split, args.pictures_per_class) for split in splits]
    if args.skip_unreadable:
        used = keep_readable(used, run, args.workers)
    boxes = find_boxes(args, splits, used)
    if args.data is not None and args.patches == "auto" and processes.is_main_process:
        write_boxes(proposed, boxes)
    return used[0], used[1], boxes


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parse_arguments(arguments)
    started = time.perf_counter()
    processes = join_processes(args.device)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = RunFolder(args.run_dir or f"runs/cub_reproduce-{stamp}", resume=args.resume)
    train, test, boxes = prepare(args, run, processes)
    model, recipe = build_model(args, train.class_names), build_recipe(args)
    if not (run.path / "config.json").is_file():  # a resumed run keeps its own
        run.write_json("config.json", describe(args, recipe, arguments or sys.argv[1:]))
    views = partial(TwoStreamDataset.for_model, model, boxes=boxes)
    if args.protocol == "paper":
        # To the letter: no augmentation, a random patch in training and at test, and the epoch that
        # is best on test. Drawing at random is `train=True` without flips.
        chosen_on = "test"
        data, held_out = (views(part, train=True, flip=False) for part in (train, test))
    else:
        chosen_on = "validation"
        rest, validation = train.split(VALIDATION_SHARE, seed=args.seed)
        data = views(rest, train=True, num_patches=args.train_patches)
        held_out = views(validation)
    if processes.is_main_process:
        print(f"{len(data)} pictures to train on, {len(held_out)} of {chosen_on} to choose by")
    common = {
        "device": args.device,
        "num_workers": args.workers,
        "cache_dir": args.cache_dir / "features",
    }
    fitted = fit(model, data, held_out, recipe=recipe, run_folder=run, resume=args.resume, **common)
    if args.protocol == "paper":
        final = best_on_test(fitted, len(test))
    else:
        measured = {"batch_size": args.batch_size, "precision": args.precision}
        calibrate(model, held_out, frozen=args.freeze, **measured, **common)
        run.save_model(model)
        final = evaluate(model, views(test), frozen=args.freeze, **measured, **common)
    result = {
        **numbers_of(final, fitted),
        "num_classes": len(test.class_names),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": recipe.epochs,
        "chosen_on": chosen_on,
        "seconds": round(time.perf_counter() - started, 1),
    }
    run.write_json("result.json", result)
    if processes.is_main_process:
        curves = run.path / "curves.png"
        draw_curves(fitted.history, curves, best_epoch=fitted.best_epoch, held_out=chosen_on)
        explain_some(model, test, boxes, run)
        print(f"\n{report(result)}")
        print(f"\nrun folder          {run.path} ({result['seconds']:.0f} s)")
    processes.destroy_process_group()
    return result


if __name__ == "__main__":
    keep_freed_memory()
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError, FileExistsError) as error:
        sys.exit(f"cub_reproduce.py: {error}")
