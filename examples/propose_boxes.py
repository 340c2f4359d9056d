r"""Write a file of label-free patches for all pictures in a folder.

    python examples/propose_boxes.py FOLDER --model DIR

DIR is what `save_pretrained` wrote. The file goes into `read_boxes`, and into cub_reproduce.py as
`--patches FILE`.
"""

import argparse
import sys
from pathlib import Path

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import Pictures, pictures_under, write_boxes
from recurrent_attention.training import propose_boxes_for


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, help="pictures, at any depth")
    add("--model", type=Path, required=True, help="folder of a saved model")
    add("--num-patches", type=int, help="boxes for each picture (default: as the model)")
    add("--out", type=Path, default=Path("boxes.json"), help="(default: boxes.json)")
    args = parser.parse_args(arguments)
    names = [file.relative_to(args.folder).as_posix() for file in pictures_under(args.folder)]
    if not names:
        raise FileNotFoundError(f"Expected pictures in {args.folder}, but found none.")
    if not (args.model / "config.json").is_file():
        raise FileNotFoundError(
            f"Expected a saved model in {args.model}, but there is no {args.model / 'config.json'}."
        )
    model = TwoStreamClassifier.from_pretrained(args.model)
    if args.num_patches is not None:
        model.num_patches = args.num_patches
    pictures = Pictures(args.folder, names, [0] * len(names), ["unknown"])
    write_boxes(args.out, propose_boxes_for(model, pictures))
    print(f"boxes of {len(names)} pictures in {args.out}")
    return args.out


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError) as error:
        sys.exit(f"propose_boxes.py: {error}")
