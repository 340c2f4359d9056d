"""Do fast settings answer the same? A trained model on real test pictures. See speed.py."""

import copy
from pathlib import Path
from typing import Literal

import torch
from pages import table
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import CUB200, TwoStreamDataset, read_boxes
from recurrent_attention.images.views import cut_view, pixels_of
from recurrent_attention.training import fit_global_head

SETTINGS = (  # name, layout of the weights, bf16 on the side
    ("plain layout, float32", torch.contiguous_format, False),
    ("here, float32", torch.channels_last, False),
    ("here, bf16", torch.channels_last, True),
)
SMALL = 64  # pixels: so small are views for which a picture of CUB's size is decoded in part


@torch.no_grad()
def layouts(data: Path, run_dir: Path) -> str:
    """Count right answers on the test pictures, by layout and precision.

    Args:
        data: the pictures, in CUB's layout.
        run_dir: of cub_reproduce.py, with a trained model and its boxes.

    Returns:
        A table.
    """
    model = TwoStreamClassifier.from_pretrained(run_dir / "model").eval()
    test = CUB200(data, "test")
    boxes = read_boxes(run_dir / "boxes.json", test)
    views = TwoStreamDataset.for_model(model, test, boxes)
    models = [copy.deepcopy(model).to(memory_format=layout) for _, layout, _ in SETTINGS]
    answers: dict[str, list[torch.Tensor]] = {name: [] for name, _, _ in SETTINGS}
    labels = []
    for images, patches, label, _ in tqdm(DataLoader(views, 1), desc="agreement", leave=False):
        labels.append(label)
        for laid_out, (name, _, half) in zip(models, SETTINGS, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                answers[name].append(laid_out(images, patches).logits.float())
    return _compared("setting", {name: torch.cat(rows) for name, rows in answers.items()}, labels)


def decoding(data: Path, run_dir: Path) -> str:
    """Train the global head on small views, and count right answers, by how JPEG is decoded.

    Args:
        data: the pictures, in CUB's layout.
        run_dir: of cub_reproduce.py, of whose model the global backbone is taken.

    Returns:
        A table.
    """
    answers = {}
    for trained, tries in ((1, (1, 2, 4)), (2, (2,))):
        model = TwoStreamClassifier.from_pretrained(run_dir / "model", image_size=SMALL).eval()
        fit_global_head(model, _Reduced(data, "train", trained), progress=False)
        look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
        for tried in tries:
            test = _Reduced(data, "test", tried)
            views = []
            for index in range(len(test)):
                pixels = pixels_of(test.open(index))
                whole = torch.tensor([0, 0, pixels.shape[2], pixels.shape[1]])
                views.append(cut_view(pixels, whole, SMALL, **look))
            with torch.no_grad():
                maps = [model.global_backbone(some) for some in torch.stack(views).split(32)]
                answers[f"1/{trained}, 1/{tried}"] = model.classify_global(torch.cat(maps))
    heads = "a JPEG's sides in training, in test"
    return _compared(heads, answers, [torch.tensor(test.labels)])


class _Reduced(CUB200):
    """Decoded at a fraction of its sides, whatever is asked for."""

    def __init__(self, data: Path, split: Literal["train", "test"], reduction: int) -> None:
        super().__init__(data, split)
        self.reduction = reduction

    def open(self, index: int, *, reduction: int = 1) -> Image.Image:
        return super().open(index, reduction=self.reduction)


def _compared(what: str, logits: dict[str, torch.Tensor], labels: list[torch.Tensor]) -> str:
    target, first = torch.cat(labels), next(iter(logits.values()))
    rows = []
    for name, own in logits.items():
        right = float((own.argmax(1) == target).float().mean())
        same = float((own.argmax(1) == first.argmax(1)).float().mean())
        error = float((own - first).abs().mean() / first.abs().mean())
        rows.append((name, f"{100 * right:.2f}", f"{100 * same:.2f}", f"{error:.1e}"))
    heads = (what, "top-1 (%)", "same answer (%)", "mean difference of a logit, relative")
    return table(heads, rows)
