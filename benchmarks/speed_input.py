"""From files to the tensors of both streams, against the authors' way. See speed.py."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from pages import table
from PIL import Image
from timing import Run, interleave, median, ratio
from torch import Tensor
from torchvision import transforms

from recurrent_attention.data import Pictures, TwoStreamDataset, pictures_under
from recurrent_attention.images import open_picture
from recurrent_attention.images.reading import picture_size
from recurrent_attention.images.views import cut_view, pixels_of

COUNT = 60  # pictures of each size
SHARE = torch.tensor([0.2, 0.1, 0.6, 0.5])  # where the patch lies
Reader = Callable[[int], object]


def measure(pictures: Path, rounds: int) -> list[str]:
    """Pictures a second on one thread, and what decoding in part changes.

    Args:
        pictures: a folder of photographs.
        rounds: how often each is timed.

    Returns:
        Two tables.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    files = pictures_under(pictures)
    files = files[:: max(1, len(files) // COUNT)][:COUNT]
    losses = [_difference(files, reduction) for reduction in (2, 4, 8)]
    speeds = []
    try:
        for side in (None, 500, 4000):
            with tempfile.TemporaryDirectory() as folder:
                some = files if side is None else _enlarge(files, side, Path(folder))
                data, authors = _readers(some)
                runs: dict[str, Run] = {
                    "authors' way": partial(_read_all, authors, len(some)),
                    "here": partial(_read_all, data.__getitem__, len(some)),
                }
                few = max(1, rounds // (5 if side == 4000 else 1))
                times = interleave(runs, few, f"input, {side or 'as they are'}")
                longer = f"{side} pixels (enlarged)" if side else "as they are"
                speeds.append(
                    (
                        longer,
                        *(f"{len(some) / median(times, name):.0f}" for name in times),
                        f"{ratio(times, *times):.2f}",
                    )
                )
    finally:
        torch.set_num_threads(threads)
    return [
        table(("longer side", "authors' way (1/s)", "here (1/s)", "times as fast"), speeds),
        table(
            ("a JPEG decoded at", "view (pixels)", "mean difference (of 255)", "99.9 % below"),
            losses,
        ),
    ]


def _read_all(read: Reader, count: int) -> None:
    for index in range(count):
        read(index)


def _readers(files: list[Path]) -> tuple[TwoStreamDataset, Reader]:
    root, names = files[0].parent.parent, [f"{f.parent.name}/{f.name}" for f in files]
    boxes = {name: (SHARE * torch.tensor(Image.open(root / name).size * 2))[None] for name in names}
    data = TwoStreamDataset(Pictures(root, names, [0] * len(names), ["bird"]), boxes)
    look = transforms.Compose(
        [
            transforms.Resize((448, 448)),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    x0, y0, x1, y1 = (SHARE * 448).int().tolist()

    def authors(index: int) -> tuple[Tensor, Tensor]:
        image: Tensor = look(Image.open(root / names[index]).convert("RGB"))
        patch = F.interpolate(image[None, :, y0:y1, x0:x1], (224, 224), mode="bilinear")
        return image, patch[0]

    return data, authors


def _enlarge(files: list[Path], side: int, folder: Path) -> list[Path]:
    found = []
    for file in files if side < 1000 else files[:: COUNT // 6]:
        picture = Image.open(file).convert("RGB")
        scale = side / max(picture.size)
        size = tuple(round(scale * length) for length in picture.size)
        path = folder / "birds" / file.name
        path.parent.mkdir(exist_ok=True)
        picture.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
        found.append(path)
    return found


def _difference(files: list[Path], reduction: int) -> tuple[str, int, str, str]:
    """Compare views of half the pixels that a reduced decoding leaves with those of a whole one."""
    differences = []
    for file in files:
        size = min(picture_size(file)) // reduction // 2
        views = []
        for part in (1, reduction):
            picture = open_picture(file, reduction=part)
            whole = torch.tensor([0, 0, *picture.size])
            views.append(cut_view(pixels_of(picture), whole, size, std=(1 / 255,) * 3))
        differences.append((views[0] - views[1]).abs().flatten())
    levels = torch.cat(differences)
    highest = levels.kthvalue(int(0.999 * len(levels))).values
    return f"1/{reduction}", size, f"{levels.mean():.2f}", f"{highest:.0f}"
