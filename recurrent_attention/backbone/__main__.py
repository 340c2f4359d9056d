"""The command `python -m recurrent_attention.backbone NAME`."""

import argparse
import sys
from collections.abc import Sequence

from recurrent_attention.backbone.check import check_backbone


def main(words: Sequence[str] | None = None) -> int:
    """Check the backbone that the command line names; 1 if it does not work, else 0.

    Args:
        words: of the command line; default: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m recurrent_attention.backbone",
        description="Tell whether a timm model works as both streams, and what that costs: maps, "
        "parameters, multiply-adds, memory of a training step. Nothing is downloaded. The exit "
        "status is 1 if it does not work.",
    )
    parser.add_argument("name", help="a timm model, such as vgg19 or vit_base_patch16_224")
    for option, default, description in (
        ("--image-size", None, "side of the images in pixels; default: 448, or what it takes"),
        ("--patch-size", None, "side of the patches in pixels; default: 224, or what it takes"),
        ("--classes", 200, "default: 200"),
        ("--patches", 1, "of each image; default: 1"),
        ("--batch-size", 32, "images in the training step; default: 32"),
    ):
        parser.add_argument(option, type=int, default=default, metavar="N", help=description)
    arguments = parser.parse_args(words)
    try:
        report = check_backbone(
            arguments.name,
            image_size=arguments.image_size,
            patch_size=arguments.patch_size,
            num_classes=arguments.classes,
            num_patches=arguments.patches,
            batch_size=arguments.batch_size,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(report)  # noqa: T201  # it is a command
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
