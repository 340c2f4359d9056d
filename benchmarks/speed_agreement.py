"""Do fast settings answer the same? A trained model on real test pictures. See speed.py."""

import copy
from pathlib import Path

import torch
from timing import table
from torch.utils.data import DataLoader
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import CUB200, TwoStreamDataset, read_boxes

SETTINGS = (  # name, layout of the weights, bf16 on the side
    ("plain layout, float32", torch.contiguous_format, False),
    ("here, float32", torch.channels_last, False),
    ("here, bf16", torch.channels_last, True),
)


@torch.no_grad()
def measure(data: Path, run_dir: Path) -> str:
    """Count right answers on the test pictures.

    Args:
        data: the pictures, in CUB's layout.
        run_dir: of cub_reproduce.py, with a trained model and its boxes.

    Returns:
        A table.
    """
    model = TwoStreamClassifier.from_pretrained(run_dir / "model").eval()
    look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
    views = TwoStreamDataset(
        CUB200(data, "test"),
        read_boxes(run_dir / "boxes.json"),
        image_size=model.image_size,
        patch_size=model.patch_size,
        num_patches=model.num_patches,
        **look,
    )
    models = [copy.deepcopy(model).to(memory_format=layout) for _, layout, _ in SETTINGS]
    answers: dict[str, list[torch.Tensor]] = {name: [] for name, _, _ in SETTINGS}
    labels = []
    for images, patches, label, _ in tqdm(DataLoader(views, 1), desc="agreement", leave=False):
        labels.append(label)
        for laid_out, (name, _, half) in zip(models, SETTINGS, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                answers[name].append(laid_out(images, patches).logits.float())
    target = torch.cat(labels)
    logits = {name: torch.cat(rows) for name, rows in answers.items()}
    first = logits[SETTINGS[0][0]]
    rows = []
    for name, own in logits.items():
        right = float((own.argmax(1) == target).float().mean())
        same = float((own.argmax(1) == first.argmax(1)).float().mean())
        error = float((own - first).abs().mean() / first.abs().mean())
        rows.append((name, f"{100 * right:.2f}", f"{100 * same:.2f}", f"{error:.1e}"))
    heads = ("setting", "top-1 (%)", "same answer (%)", "mean difference of a logit, relative")
    return table(heads, rows)
