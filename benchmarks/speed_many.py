"""`predict` for many files against its networks alone, on tensors that are ready. See speed.py."""

import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from pages import table
from PIL import Image
from timing import Run, interleave, median, ratio
from torch import Tensor

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.inference.many import predict_files

BACKBONE, LOOKS, FILES = "mobilenetv2_100", 10, 12
BARE = "networks alone, on ready tensors"


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write photographs of different sizes, as large as those of CUB."""
    generator, draw, paths = np.random.default_rng(0), random.Random(0), []
    for number in range(count):
        drawn = generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        size = draw.choice([(500, 375), (375, 500), (500, 333), (448, 500)])
        Image.fromarray(drawn).resize(size).save(paths[-1])
    return paths


def cases(folder: Path) -> dict[str, Run]:
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        BACKBONE, 200, image_size=224, num_patches=LOOKS, patch_weighting="anytime"
    ).eval()
    paths = write_pictures(folder, FILES)
    whole = torch.randn(1, 3, model.image_size, model.image_size)
    finer = torch.randn(1, 3, model.proposal_size, model.proposal_size)
    parts = torch.randn(LOOKS, 3, model.patch_size, model.patch_size)

    @torch.no_grad()
    def bare() -> list[Tensor]:
        return [
            found
            for _ in paths
            for found in (
                model.global_backbone(whole),
                model.global_backbone(finer),
                model.local_backbone(parts),
            )
        ]

    def many(num_workers: int) -> Run:
        return lambda: list(predict_files(model, paths, num_workers=num_workers, progress=False))

    return {
        BARE: bare,
        "predict, one by one": lambda: [model.predict(path) for path in paths],
        "predict, a list": lambda: model.predict(paths),
        "predict_files": many(0),
        "predict_files, a worker": many(1),
    }


def measure(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        times = interleave(cases(Path(folder)), rounds, "many")
    rows = [
        (name, f"{1000 * median(times, name) / FILES:.0f}", f"{ratio(times, BARE, name):.2f}")
        for name in times
    ]
    return table((f"{FILES} pictures, ten looks at each", "ms a picture", "throughput"), rows)
