"""Draw docs/explained.png, explained-looks.png and explained-against.png: drawn birds, explained.

fine="--output-stride 8 --epochs 20"
python examples/cub_reproduce.py $fine --run-dir runs/steps
python examples/cub_reproduce.py $fine --patch-weighting anytime --run-dir runs/looks
PYTHONPATH=examples python benchmarks/explained_figures.py runs/steps runs/looks \
    .cache/synthetic-birds-0

The bird of the looks is that of looks_animation.py; that of the steps is the second of the run. The
last figure compares the answer to the bird of the looks with the second best class.
"""

import sys
from pathlib import Path

from looks_animation import choose
from looks_figure import opened
from pages import ROOT

from recurrent_attention.data import TwoStreamDataset

SECOND, DPI = 150, 120  # test picture, as cub_reproduce.py explains it; pixels per inch


def main() -> None:
    steps, looks, data = map(Path, sys.argv[1:4])
    model, test, boxes = opened(looks, data)
    index, _ = choose(model, TwoStreamDataset.for_model(model, test, boxes))
    shown = {"boxes": boxes[test.names[index]][: model.num_patches]}
    found = model.explain(test[index][0], **shown)
    found.save(ROOT / "docs" / "explained-looks.png", dpi=DPI)
    best, second = found.logits[0].topk(2).indices.tolist()
    found = model.explain(test[index][0], target=best, against=second, **shown)
    found.save(ROOT / "docs" / "explained-against.png", dpi=DPI)
    model, test, boxes = opened(steps, data)
    found = model.explain(test[SECOND][0], boxes=boxes[test.names[SECOND]][:1])
    found.save(ROOT / "docs" / "explained.png", dpi=DPI)


if __name__ == "__main__":
    main()
