r"""From a folder of pictures for each class to a saved model and one explained picture.

    python examples/own_dataset.py FOLDER

FOLDER holds FOLDER/CLASS/NAME.jpg. No boxes are needed: the global stream's classifier is trained
first and says where to look. The backbones are frozen; timm downloads their ImageNet weights.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import PictureFolder, TwoStreamDataset, write_boxes
from recurrent_attention.training import (
    Recipe,
    RunFolder,
    evaluate,
    fit,
    fit_global_head,
    propose_boxes_for,
)

NUM_PATCHES = 10
SHARE = 0.2  # of each class, for validation and again for the test


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="holds one folder of pictures for each class")
    add("--backbone", default="mobilenetv2_100", help="any timm model (default: mobilenetv2_100)")
    add("--weights", help="file with its weights, or none (default: timm downloads them)")
    add("--image-size", type=int, default=224, help="(default: 224)")
    add("--patch-size", type=int, default=224, help="(default: 224)")
    add("--epochs", type=int, default=15, help="(default: 15)")
    add("--seed", type=int, default=0, help="of the split and the training (default: 0)")
    add("--run-dir", type=Path, help="new folder (default: runs/own_dataset-DATE-TIME)")
    args = parser.parse_args(arguments)

    pictures = PictureFolder(args.folder)
    rest, test = pictures.split(SHARE, seed=args.seed)
    train, validation = rest.split(SHARE, seed=args.seed)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run = RunFolder(args.run_dir or Path("runs") / f"own_dataset-{stamp}")
    overlay = {"file": args.weights} if args.weights not in (None, "none") else {}
    torch.manual_seed(args.seed)
    model = TwoStreamClassifier(
        args.backbone,
        len(pictures.class_names),
        pretrained=args.weights != "none",
        backbone_kwargs={"pretrained_cfg_overlay": overlay},
        image_size=args.image_size,
        patch_size=args.patch_size,
        num_patches=NUM_PATCHES,
        patch_weighting="linear",
        class_names=pictures.class_names,
    )

    fit_global_head(model, train)
    boxes = propose_boxes_for(model, pictures)
    write_boxes(run.path / "boxes.json", boxes)

    fit(
        model,
        TwoStreamDataset.for_model(model, train, boxes, train=True),
        TwoStreamDataset.for_model(model, validation, boxes),
        recipe=Recipe(epochs=args.epochs, label_smoothing=0.1, freeze=True, seed=args.seed),
        run_folder=run,
    )
    found = evaluate(model, TwoStreamDataset.for_model(model, test, boxes))
    print(
        f"top-1 of {found.num_images} test pictures: global {100 * found.global_top1:.1f} %, "
        f"local {100 * found.local_top1:.1f} %, fused {100 * found.fused_top1:.1f} %"
    )
    model.explain(test.path(0)).save(run.path / "explained.png")
    print(f"model, boxes and explained.png in {run.path}")
    return run.path


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError, FileExistsError) as error:
        sys.exit(f"own_dataset.py: {error}")
