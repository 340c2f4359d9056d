r"""Compare what speaks for the two best classes of a picture: two figures, and a few numbers.

    python examples/explain_image.py PICTURE --model DIR

DIR is what `save_pretrained` wrote, for example the `model` folder of a run of cub_reproduce.py.
For one figure, of any class and of many pictures, there is `recurrent-attention explain`.
"""

import argparse
import sys
from pathlib import Path

from recurrent_attention import TwoStreamClassifier


def main(arguments: list[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="any picture file")
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the figures")
    args = parser.parse_args(arguments)
    model = TwoStreamClassifier.from_pretrained(args.model)
    prediction = model.predict(args.picture)
    print(prediction)
    written = []
    best = zip(prediction.class_names[:2], prediction.indices[:2], strict=True)
    for place, (name, index) in enumerate(best, 1):
        found = model.explain(args.picture, boxes=prediction.boxes, target=index)
        written.append(args.out / f"{args.picture.stem}-{place}.png")
        found.save(written[-1])
        # Maps are not scaled: their sums can be compared between classes, patches and steps.
        patch, step = divmod(int(found.step_maps.sum((-2, -1)).argmax()), found.step_maps.shape[2])
        print(
            f"{written[-1]}: {name}, logit {float(found.logits[0, index]):.2f}; most speaks for it "
            f"in look {step + 1} at patch {patch + 1}"
        )
    return written


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"explain_image.py: {error}")
