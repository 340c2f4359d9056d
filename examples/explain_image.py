r"""Show where both streams of a saved model look in a picture, step by step.

    python examples/explain_image.py PICTURE --model DIR

DIR is what `save_pretrained` wrote, for example the `model` folder of a run of cub_reproduce.py.
"""

import argparse
import sys
from pathlib import Path

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._errors import printable


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="any picture file")
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--target", help="class to explain, a name or an index (default: its own)")
    parser.add_argument("--out", type=Path, help="figure to write (default: PICTURE-explained.png)")
    args = parser.parse_args(arguments)
    if not (args.model / "config.json").is_file():
        raise FileNotFoundError(
            f"Expected a saved model in {args.model}, but there is no {args.model / 'config.json'}."
        )
    out: Path = args.out or Path(f"{args.picture.stem}-explained.png")
    model = TwoStreamClassifier.from_pretrained(args.model)
    target = args.target
    if target is not None and target not in (model.class_names or ()) and target.isdigit():
        target = int(target)
    prediction = model.predict(args.picture)
    for name, probability in zip(
        prediction.class_names[:5], prediction.probabilities[:5], strict=True
    ):
        print(f"{100 * probability:5.1f} %  {name}")
    model.explain(args.picture, boxes=prediction.boxes, target=target).save(out)
    print(f"explained in {out}")
    return out


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"explain_image.py: {printable(error)}")
