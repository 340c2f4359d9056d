"""Patches for any data set: train the global stream's head, and let it say where to look."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor
from tqdm.auto import tqdm

from recurrent_attention._devices import Device
from recurrent_attention._modes import eval_view
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.boxes import Boxes, read_boxes, write_boxes
from recurrent_attention.data.pictures import Pictures, require_pictures
from recurrent_attention.ops.proposal import EDITION
from recurrent_attention.training.feature_store import FeatureStore, digest_of, key_of
from recurrent_attention.training.features import whole_features
from recurrent_attention.training.networks import own_training
from recurrent_attention.training.optimization import Schedule, check_trainable, optimizer_of
from recurrent_attention.training.processes import (
    Resources,
    join_processes,
    own_accelerate_state,
    take_over_from_main,
)
from recurrent_attention.training.reading import WholePictures, fill_store
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.samples import labels_for

FindBoxes = Callable[[TwoStreamClassifier, Pictures], Mapping[str, Tensor]]


def boxes_of_parts(
    model: Callable[[], TwoStreamClassifier],
    every: Mapping[str, Pictures],
    files: Mapping[str, Path],
    own: FindBoxes | None = None,
    **work: Any,
) -> dict[str, Mapping[str, Tensor]]:
    """Find the boxes of each part once, and keep them in files, where a later call finds them.

    Args:
        model: called for the model where a file is missing.
        every: the parts by name, with "train" among them.
        files: of the boxes, by name of the part, at least of these.
        own: finds boxes; None trains the global stream's classifier on "train", and it proposes.
        **work: arguments that `fit_global_head` and `propose_boxes_for` share.

    Returns:
        The boxes by name of the part.
    """
    if all(files[name].is_file() for name in every):
        return {name: read_boxes(files[name], part) for name, part in every.items()}
    built = model()
    boxes: dict[str, Mapping[str, Tensor]]
    if own is None:
        fit_global_head(built, every["train"], **work)
        boxes = {name: propose_boxes_for(built, part, **work) for name, part in every.items()}
    else:
        boxes = {name: own(built, part) for name, part in every.items()}
    if join_processes().is_main_process:
        for name in every:
            files[name].parent.mkdir(exist_ok=True)
            write_boxes(files[name], boxes[name])
    return boxes


@own_accelerate_state()
def fit_global_head(
    model: TwoStreamClassifier,
    pictures: Pictures,
    *,
    recipe: Recipe | None = None,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> None:
    """Train the classifier of the global stream alone, on its backbone as it is.

    This is what `propose_boxes_for` needs: class labels, but no box and no patch. The features of
    each picture, as it is and mirrored, are computed once; several processes share that work.

    Args:
        model: `global_head` (and `global_convs`) are trained in place; nothing else changes, but
            for the device.
        pictures: to learn from.
        recipe: epochs, batch size, rate of new layers, weight decay, label smoothing and seed;
            default: 15 epochs with a label smoothing of 0.1.
        cache_dir: folder to keep the features in, for `fit` with frozen backbones as well; None
            computes them anew.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.

    Raises:
        ValueError: if the pictures have classes that the model has not, there is none, the head is
            frozen, or the device is not there.
        TypeError: if `pictures` are no `Pictures`.
        RuntimeError: if weights were made under `torch.inference_mode`.
    """
    recipe = recipe or Recipe(epochs=15, label_smoothing=0.1, freeze=True)
    classes = labels_for(model, pictures)
    if not classes:
        raise ValueError("Expected `pictures` to hold at least one picture, but it is empty.")
    check_trainable(model)
    heads = [module for module in (model.global_convs, model.global_head) if module is not None]
    every = [parameter for module in heads for parameter in module.parameters()]
    parameters = [parameter for parameter in every if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "Expected `global_head` to have a parameter that requires a gradient, but all of them "
            "are frozen. Call model.global_head.requires_grad_()."
        )
    resources = Resources(
        model, device=device, num_workers=num_workers, progress=progress, cache_dir=cache_dir
    )
    accelerator = resources.accelerator
    shown = pictures.for_channels(model.global_backbone.in_chans)
    store, positions = whole_features(model, shown, resources)
    labels = torch.tensor(classes, device=accelerator.device)
    optimizer = optimizer_of([{"params": parameters, "lr": recipe.head_lr}], recipe)
    batches = max(1, len(labels) // recipe.batch_size)
    schedule = Schedule(optimizer, recipe, batches)
    with own_training(parameters), eval_view(model) as view:
        torch.manual_seed(recipe.seed)
        hidden = not resources.progress
        for _ in tqdm(range(recipe.epochs), desc="global head", leave=False, disable=hidden):
            order = torch.randperm(len(labels)).to(labels.device)
            for batch in torch.split(order, recipe.batch_size)[:batches]:
                mirrored = torch.randint(positions.shape[1], (len(batch),))
                features = store.rows(positions[batch.cpu(), mirrored])
                features = features.to(accelerator.device, parameters[0].dtype)
                logits = view.classify_global(features)
                smoothing = recipe.label_smoothing
                loss = F.cross_entropy(logits, labels[batch], label_smoothing=smoothing)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    for module in heads:  # on GPUs no two processes compute exactly the same
        take_over_from_main(module)


@own_accelerate_state()
def propose_boxes_for(
    model: TwoStreamClassifier,
    pictures: Pictures,
    *,
    cache_dir: str | Path | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
) -> Mapping[str, Tensor]:
    """Propose boxes in every picture of a data set, by a model with a trained global stream.

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
        TypeError: if `pictures` are no `Pictures`.
    """
    require_pictures(pictures)
    pictures = pictures.for_channels(model.global_backbone.in_chans)
    resources = Resources(
        model, device=device, num_workers=num_workers, progress=progress, cache_dir=cache_dir
    )
    asked = [model.global_backbone, model.global_head, model.global_convs]
    weights = [digest_of(module) for module in asked if module is not None]
    store = FeatureStore.of("-".join(weights), resources.cache_dir)
    side = model.proposal_size
    shown = WholePictures(model, pictures, side)

    def keys_of(look: list[Any]) -> list[bytes]:
        return [key_of(*look, side, model.num_patches, EDITION)]

    with eval_view(model) as view:  # once; `propose` would build one a picture

        def see(views: Tensor) -> list[Tensor]:
            return [view.propose(views).cpu().float() / side]

        positions, sizes = fill_store(store, shown, keys_of, see, view, resources, "proposals")
    if len(pictures) == 0:
        return Boxes({}, ())
    scales = repeat(torch.from_numpy(sizes).float(), "n side -> n 1 (2 side)")
    return Boxes.of_table(store.rows(positions[:, 0]).mul_(scales), pictures.names)
