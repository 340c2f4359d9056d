"""Patches for any data set: train the global stream's head, and let it say where to look."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.modes import eval_mode
from recurrent_attention.training.accelerator import make_accelerator
from recurrent_attention.training.draws import plainly
from recurrent_attention.training.evaluation import check_labels
from recurrent_attention.training.feature_store import (
    FeatureStore,
    content_of,
    digest_of,
    key_of,
)
from recurrent_attention.training.processes import (
    Device,
    from_all,
    share_of_missing,
    take_over_from_main,
)
from recurrent_attention.training.recipe import Recipe, build_schedule, optimizer_of
from recurrent_attention.views import EDITION, cut_view, pixels_of, reduction_for

PICTURES_PER_PASS_CPU = 1
PICTURES_PER_PASS = 16  # on other devices
PICTURES_PER_SHARD = 256  # a kill loses no more


def fit_global_head(
    model: TwoStreamClassifier,
    pictures: Pictures,
    *,
    recipe: Recipe | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> None:
    """Train the classifier of the global stream alone, on its backbone as it is.

    This is what `propose_patches` needs: class labels, but no box and no patch. The features of
    each picture, as it is and mirrored, are computed once; several processes share that work.

    Args:
        model: `global_head` (and `global_convs`) are trained in place; nothing else changes, but
            for the device.
        pictures: to learn from.
        recipe: epochs, batch size, rate of new layers, weight decay, label smoothing and seed;
            default: 15 epochs with a label smoothing of 0.1.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.

    Raises:
        ValueError: if the pictures have more classes than the model, or the device is not there.
    """
    recipe = recipe or Recipe(epochs=15, label_smoothing=0.1, freeze=True)
    check_labels(model, pictures)
    accelerator = make_accelerator(device, "fp32")
    model.to(accelerator.device)
    progress = progress and accelerator.is_main_process
    features = _features(model, pictures, num_workers, progress).to(accelerator.device)
    labels = torch.tensor(pictures.labels, device=accelerator.device)
    # Of these alone: gradients that the caller keeps on other parameters are left alone.
    heads = [module for module in (model.global_convs, model.global_head) if module is not None]
    parameters = [parameter for module in heads for parameter in module.parameters()]
    optimizer = optimizer_of([{"params": parameters, "lr": recipe.head_lr}], recipe)
    optimizer.zero_grad()
    batches = max(1, len(labels) // recipe.batch_size)
    schedule = build_schedule(optimizer, recipe, batches)
    with torch.random.fork_rng(), eval_mode(model), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        for _ in tqdm(range(recipe.epochs), desc="global head", leave=False, disable=not progress):
            order = torch.randperm(len(labels)).to(labels.device)
            for batch in torch.split(order, recipe.batch_size)[:batches]:
                mirrored = torch.randint(features.shape[1], (len(batch),))
                logits = model.classify_global(features[batch, mirrored.to(labels.device)])
                smoothing = recipe.label_smoothing
                loss = F.cross_entropy(logits, labels[batch], label_smoothing=smoothing)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    for module in heads:  # on GPUs no two processes compute exactly the same
        take_over_from_main(module)


def propose_patches(
    model: TwoStreamClassifier,
    pictures: Pictures,
    *,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Let a model with a trained global stream say where to look, in every picture of a data set.

    Several processes share the pictures; each gets all boxes.

    Args:
        model: proposes `num_patches` boxes a picture from its map at `proposal_size`; it goes to
            the device, nothing else changes.
        pictures: no label of theirs is read.
        cache_dir: folder to keep the boxes in, found again by the picture's content and the model's
            weights; None computes them anew.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show a bar.

    Returns:
        Relative file name to boxes (p 4), best first, xyxy in pixels of the picture on disk, as
        `TwoStreamDataset` takes them and `write_boxes` keeps them.

    Raises:
        ValueError: if the device is not there.
    """
    accelerator = make_accelerator(device, "fp32")
    model.to(accelerator.device)
    asked = [model.global_backbone, model.global_head, model.global_convs]
    weights = [digest_of(module) for module in asked if module is not None]
    short = key_of(*weights).hex()[:16]
    store = FeatureStore(Path(cache_dir) / short if cache_dir is not None else None)
    side = model.proposal_size
    keys = [_picture_key(model, pictures, index, side) for index in range(len(pictures))]
    missing = share_of_missing(index for index, key in enumerate(keys) if key not in store)
    progress = progress and accelerator.is_main_process
    found: dict[bytes, Tensor] = {}
    for indices, views in _views(
        model, pictures, missing, side, num_workers, progress, "proposals"
    ):
        shares = model.propose(views).cpu().float() / side
        found |= {keys[index]: rows for index, rows in zip(indices, shares, strict=True)}
        if len(found) >= PICTURES_PER_SHARD or indices[-1] == missing[-1]:
            store.add(list(found), torch.stack(list(found.values())))
            found.clear()
    store.exchange()
    boxes = {}
    for index, name in enumerate(pictures.names):
        width, height = pictures.size(index)
        boxes[name] = store[keys[index]] * torch.tensor([width, height, width, height])
    return boxes


class _Whole(Dataset[tuple[int, Tensor]]):
    """Whole pictures as the model sees them."""

    def __init__(
        self, model: TwoStreamClassifier, pictures: Pictures, indices: list[int], side: int
    ) -> None:
        self.pictures, self.indices, self.side = pictures, indices, side
        self.look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        index = self.indices[position]
        reduction = reduction_for(self.pictures.size(index), self.side)
        picture = self.pictures.open(index, reduction=reduction)
        whole = torch.tensor([0.0, 0.0, *picture.size])
        return index, cut_view(pixels_of(picture), whole, self.side, **self.look)


def _views(
    model: TwoStreamClassifier,
    pictures: Pictures,
    indices: list[int],
    side: int,
    num_workers: int,
    progress: bool,
    description: str,
) -> Iterator[tuple[list[int], Tensor]]:
    """Read whole pictures, some at a time, onto the model's device: (b 3 side side)."""
    device = next(model.parameters()).device
    count = PICTURES_PER_PASS_CPU if device.type == "cpu" else PICTURES_PER_PASS
    data = _Whole(model, pictures, indices, side)
    loader: DataLoader[Any] = DataLoader(
        data,
        count,
        num_workers=num_workers,
        generator=torch.Generator(),  # draws a seed from it
    )
    with tqdm(
        total=len(indices), desc=description, unit="picture", disable=not progress or not indices
    ) as bar:
        for some, views in plainly(loader):
            yield some.tolist(), views.to(device)
            bar.update(len(some))


def _features(
    model: TwoStreamClassifier, pictures: Pictures, num_workers: int, progress: bool
) -> Tensor:
    """Run the global backbone: (n 2 c), or (n 2 c h w) where the head needs maps."""
    mine: dict[int, Tensor] = {}
    indices = share_of_missing(range(len(pictures)))
    for some, views in _views(
        model, pictures, indices, model.image_size, num_workers, progress, "features"
    ):
        with torch.no_grad(), eval_mode(model):
            both = [model.global_backbone(side) for side in (views, views.flip(-1))]
        if model.global_convs is None:
            both = [reduce(each, "b c h w -> b c", "mean") for each in both]
        mine |= zip(some, torch.stack(both, dim=1).cpu(), strict=True)
    found = {index: features for each in from_all(mine) for index, features in each.items()}
    return torch.stack([found[index] for index in range(len(pictures))])


def _picture_key(model: TwoStreamClassifier, pictures: Pictures, index: int, side: int) -> bytes:
    look = [model.data_config[key] for key in ("mean", "std", "interpolation")]
    content = content_of(pictures.path(index))
    return key_of(content, pictures.size(index), *look, EDITION, side, model.num_patches)
