"""Features of frozen backbones, computed once and kept on disk."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.modes import eval_mode
from recurrent_attention.outputs import TwoStreamFeatures
from recurrent_attention.training.draws import plainly
from recurrent_attention.training.feature_store import (
    FeatureStore,
    content_of,
    digest_of,
    key_of,
)
from recurrent_attention.training.processes import share_of_missing
from recurrent_attention.views import EDITION

PICTURES_PER_SHARD = (
    32  # with 10 patches, mirrored too: 0.4 GB of pixels at 224; a kill loses no more
)
VIEWS_PER_PASS_CPU = 8  # MobileNetV2 at 224 on 2 cores: 20 ms a view, with 32 at once 39 ms
VIEWS_PER_PASS = 64  # on other devices


class FeatureSample(NamedTuple):
    """One picture as the heads see it.

    Attributes:
        global_features: (c), or (c h w) with `global_head="conv"`.
        local_features: (p c).
        label: class index in [0, k).
    """

    global_features: Tensor
    local_features: Tensor
    label: int


class FeatureDataset(Dataset[FeatureSample]):
    """The frozen features of a `TwoStreamDataset`, drawn as that data set draws its pictures.

    Args:
        data: what the features are of; its `train`, `flip` and `num_patches` hold here as well.
        global_store: features of whole pictures.
        local_store: features of patches.
        keys: for each picture, for each variant (as it is, mirrored): its key in the global
            store and those of its patches in the local store.
    """

    def __init__(
        self,
        data: TwoStreamDataset,
        global_store: FeatureStore,
        local_store: FeatureStore,
        keys: list[list[tuple[bytes, list[bytes]]]],
    ) -> None:
        self.data = data
        self.global_store = global_store
        self.local_store = local_store
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> FeatureSample:
        variants = self.keys[index]
        variant = int(torch.randint(len(variants), ())) if len(variants) > 1 else 0
        image_key, patch_keys = variants[variant]
        order, count = range(len(patch_keys)), self.data.num_patches
        chosen = torch.randperm(len(order))[:count].sort().values if self.data.train else order
        patches = [self.local_store[patch_keys[int(i)]] for i in chosen[:count]]
        label = self.data.pictures.labels[index]
        return FeatureSample(self.global_store[image_key], torch.stack(patches), label)


class Heads(nn.Module):
    """The heads of a classifier as a network of their own, for frozen features."""

    def __init__(self, model: TwoStreamClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, global_features: Tensor, local_features: Tensor) -> Any:
        """Classify features (b c) or (b c h w), and (b p c)."""
        return self.model.classify(TwoStreamFeatures(global_features, local_features))


def frozen_features(
    model: TwoStreamClassifier,
    data: TwoStreamDataset,
    *,
    accelerator: Accelerator,
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> FeatureDataset:
    """Compute what frozen backbones see in every picture and patch, or take it from the cache.

    An entry is found by the weights, the picture's content, its box, the size, the normalisation
    and the precision; if one of them changes, it is computed anew. Several processes share the
    work.

    Args:
        model: whose backbones to use; they run in eval mode.
        data: pictures and boxes; with `train` and `flip` also the mirrored views.
        accelerator: names device and precision.
        cache_dir: folder to keep features in, or None for memory only.
        num_workers: processes that read pictures.
        progress: show a bar.

    Returns:
        A data set of features.

    Raises:
        ValueError: if `data` crops at random: such views cannot be kept.
    """
    if data.train and data.crop_scale is not None:
        raise ValueError(
            "Expected data for frozen backbones to show whole pictures, whose features can be "
            f"kept, but got crop_scale={data.crop_scale}. Pass crop_scale=None."
        )
    stores, digests = [], []
    for backbone, keeps_map in (
        (model.global_backbone, model.global_convs is not None),
        (model.local_backbone, False),
    ):
        digests.append(f"{digest_of(backbone)}-{keeps_map}-{accelerator.mixed_precision}")
        short = hashlib.sha256(digests[-1].encode()).hexdigest()[:16]
        stores.append(FeatureStore(Path(cache_dir) / short if cache_dir is not None else None))
    keys = [_keys(data, index, digests) for index in range(len(data))]
    missing = share_of_missing(
        index
        for index, variants in enumerate(keys)
        if any(
            image_key not in stores[0] or any(key not in stores[1] for key in patch_keys)
            for image_key, patch_keys in variants
        )
    )
    progress = progress and accelerator.is_main_process
    _fill(model, data, missing, keys, stores, accelerator, num_workers, progress)
    for store in stores:
        store.exchange()
    return FeatureDataset(data, stores[0], stores[1], keys)


def _keys(
    data: TwoStreamDataset, index: int, digests: list[str]
) -> list[tuple[bytes, list[bytes]]]:
    picture = content_of(data.pictures.path(index))
    look = [picture, data.pictures.size(index), data.mean, data.std, data.interpolation, EDITION]
    boxes = data.boxes[data.pictures.names[index]].tolist()
    variants = []
    for mirrored in (False, True) if data.train and data.flip else (False,):
        image_key = key_of(digests[0], *look, data.image_size, mirrored)
        patch_keys = [key_of(digests[1], *look, data.patch_size, mirrored, box) for box in boxes]
        variants.append((image_key, patch_keys))
    return variants


class _Views(Dataset[tuple[int, Tensor, Tensor]]):
    def __init__(self, data: TwoStreamDataset, indices: list[int]) -> None:
        self.data = data
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor, Tensor]:
        return (self.indices[position], *self.data.fixed_views(self.indices[position]))


def _fill(
    model: TwoStreamClassifier,
    data: TwoStreamDataset,
    missing: list[int],
    keys: list[list[tuple[bytes, list[bytes]]]],
    stores: list[FeatureStore],
    accelerator: Accelerator,
    num_workers: int,
    progress: bool,
) -> None:
    loader = DataLoader(_Views(data, missing), batch_size=None, num_workers=num_workers)
    bar = tqdm(
        plainly(loader),
        desc="frozen features",
        total=len(missing),
        unit="picture",
        disable=not progress or not missing,
    )
    model.to(accelerator.device)
    with eval_mode(model), torch.no_grad(), accelerator.autocast():
        for views in _chunks(bar, PICTURES_PER_SHARD):
            images, patches, image_keys, patch_keys = [], [], [], []
            for index, image, parts in views:
                for mirrored, (image_key, own_patch_keys) in enumerate(keys[index]):
                    images.append((image.flip(-1) if mirrored else image)[None])
                    patches.append(parts.flip(-1) if mirrored else parts)
                    image_keys.append(image_key)
                    patch_keys.extend(own_patch_keys)
            found = _run(model.global_backbone, images, accelerator, model.global_convs is None)
            stores[0].add(image_keys, found)
            found = _run(model.local_backbone, patches, accelerator, True)
            stores[1].add(patch_keys, found)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _run(
    backbone: FeatureBackbone, views: list[Tensor], accelerator: Accelerator, pooled: bool
) -> Tensor:
    found = []
    count = VIEWS_PER_PASS_CPU if accelerator.device.type == "cpu" else VIEWS_PER_PASS
    for some in torch.split(torch.cat(views), count):
        feature_map = backbone(some.to(accelerator.device))
        found.append((feature_map.mean((2, 3)) if pooled else feature_map).float().cpu())
    return torch.cat(found)
