r"""Compare the two best classes of a picture: one figure, and what each look adds to either.

    python examples/explain_image.py PICTURE --model DIR

DIR is what `save_pretrained` wrote, for example the `model` folder of a run of cub_reproduce.py.
The figure alone, of any two classes and of many pictures: `recurrent-attention explain --against`.
"""

import argparse
import sys
from pathlib import Path

from recurrent_attention import TwoStreamClassifier


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="any picture file")
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figure")
    args = parser.parse_args(arguments)
    model = TwoStreamClassifier.from_pretrained(args.model)
    prediction = model.predict(args.picture, top_k=2)
    print(prediction)
    best, second = prediction.indices
    found = model.explain(args.picture, boxes=prediction.boxes, target=best, against=second)
    path = args.out / f"{args.picture.stem}-against.png"
    found.save(path)
    print(f"{path}: {' rather than '.join(prediction.class_names)}")
    # A map sums to the look's score for the first class beyond that for the second, less the bias.
    for patch, looks in enumerate(found.step_maps[0].sum((-2, -1)).tolist(), 1):
        for step, added in enumerate(looks, 1):
            favoured = prediction.class_names[0 if added > 0 else 1]
            print(f"look {step} at patch {patch}: {abs(added):.2f} for {favoured}")
    return path


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"explain_image.py: {error}")
