"""Features of frozen backbones, computed once and kept on disk."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention._modes import eval_view
from recurrent_attention._workers import leave_signals
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.images.views import EDITION
from recurrent_attention.training.draws import plainly
from recurrent_attention.training.feature_store import (
    FeatureStore,
    digest_of,
    key_of,
)
from recurrent_attention.training.processes import share_of_missing
from recurrent_attention.training.resources import Resources
from recurrent_attention.training.views import Views, cast
from recurrent_attention.training.whole_pictures import (
    PICTURES_PER_SHARD,
    WholePictures,
    whole_views,
)

PICTURES_PER_CHUNK = 32  # with 10 patches, mirrored too: 0.4 GB at 224; a kill loses no more
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
        data: what the features are of; `train`, `flip` and `num_patches` hold here as well.
        global_store: features of whole pictures.
        local_store: features of patches.
        keys: for each picture, for each variant (as it is, mirrored): its key in the global
            store and those of its patches in the local store.
    """

    def __init__(
        self,
        data: Views,
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
        part, _ = self.data.place(index)
        order, count = range(len(patch_keys)), part.num_patches
        chosen = torch.randperm(len(order))[:count].sort().values if part.train else order
        patches = [self.local_store[patch_keys[int(i)]] for i in chosen[:count]]
        label = self.data.labels[index]
        return FeatureSample(self.global_store[image_key], torch.stack(patches), label)


def frozen_features(
    model: TwoStreamClassifier,
    data: Views,
    resources: Resources,
) -> FeatureDataset:
    """Compute what frozen backbones see in every picture and patch, or take it from the cache.

    An entry is found by the weights, the picture's content, its box, the size, the normalisation
    and the precision; if one of them changes, it is computed anew. Several processes share the
    work.

    Args:
        model: whose backbones to use; they run in eval mode.
        data: pictures and boxes; with `train` and `flip` also the mirrored views.
        resources: to read and compute with.

    Returns:
        A data set of features.

    Raises:
        ValueError: if `data` crops at random: such views cannot be kept.
    """
    for part in data.parts:
        if part.train and part.crop_scale is not None:
            raise ValueError(
                "Expected data for frozen backbones to show whole pictures, whose features can be "
                f"kept, but got crop_scale={part.crop_scale}. Pass crop_scale=None."
            )
    stores, digests = [], []
    for is_global in (True, False):
        digest, store = _store(model, is_global, resources)
        digests.append(digest)
        stores.append(store)
    keys = [_keys(data, index, digests) for index in range(len(data))]
    missing = share_of_missing(
        index
        for index, variants in enumerate(keys)
        if any(
            image_key not in stores[0] or any(key not in stores[1] for key in patch_keys)
            for image_key, patch_keys in variants
        )
    )
    _fill(model, data, missing, keys, stores, resources)
    for store in stores:
        store.exchange()
    return FeatureDataset(data, stores[0], stores[1], keys)


def whole_features(
    model: TwoStreamClassifier,
    pictures: Pictures,
    resources: Resources,
) -> Tensor:
    """Compute what the global backbone sees in every picture, as it is and mirrored.

    The features are kept with those of `frozen_features`, which does not compute them again.

    Args:
        model: whose backbone to use, in eval mode.
        pictures: to look at.
        resources: to read and compute with.

    Returns:
        (n 2 c), or (n 2 c h w) where the head needs maps.
    """
    digest, store = _store(model, True, resources)
    side, keys = model.image_size, []
    for index in range(len(pictures)):
        look = [*_look_of(WholePictures(model, pictures, [], side), pictures, index), side]
        keys.append([key_of(digest, *look, mirrored) for mirrored in (False, True)])
    missing = share_of_missing(
        index for index, both in enumerate(keys) if any(key not in store for key in both)
    )
    shown = WholePictures(model, pictures, missing, side)
    found: dict[bytes, Tensor] = {}
    with eval_view(model) as model, torch.no_grad():
        for some, views in whole_views(model, shown, resources, "features"):
            for mirrored, seen in enumerate((views, views.flip(-1))):
                rows = _kept(model.global_backbone(seen), model.global_convs is None)
                found |= {keys[index][mirrored]: row for index, row in zip(some, rows, strict=True)}
            if len(found) >= 2 * PICTURES_PER_SHARD or some[-1] == missing[-1]:
                store.add(list(found), torch.stack(list(found.values())))
                found.clear()
    store.exchange()
    return torch.stack([torch.stack([store[key] for key in both]) for both in keys])


def _store(
    model: TwoStreamClassifier, is_global: bool, resources: Resources
) -> tuple[str, FeatureStore]:
    """Open the store of a stream's features; return what its keys begin with, too."""
    backbone = model.global_backbone if is_global else model.local_backbone
    keeps_map = is_global and model.global_convs is not None
    dtype = next(backbone.parameters()).dtype
    digest = f"{digest_of(backbone)}-{keeps_map}-{resources.accelerator.mixed_precision}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        digest += f"-{dtype}"
    return digest, resources.store(digest)


def _look_of(data: Any, pictures: Pictures, index: int) -> list[Any]:
    size = pictures.size(index)
    return [pictures.content(index), size, data.mean, data.std, data.interpolation, EDITION]


def _keys(data: Views, index: int, digests: list[str]) -> list[tuple[bytes, list[bytes]]]:
    part, place = data.place(index)
    look = _look_of(part, part.pictures, place)
    boxes = data.boxes(index).tolist()
    variants = []
    for mirrored in (False, True) if part.train and part.flip else (False,):
        image_key = key_of(digests[0], *look, part.image_size, mirrored)
        patch_keys = [key_of(digests[1], *look, part.patch_size, mirrored, box) for box in boxes]
        variants.append((image_key, patch_keys))
    return variants


class _Views(Dataset[tuple[int, Tensor, Tensor]]):
    def __init__(self, data: Views, indices: list[int]) -> None:
        self.data = data
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor, Tensor]:
        part, place = self.data.place(self.indices[position])
        return (self.indices[position], *part.fixed_views(place))


def _fill(
    model: TwoStreamClassifier,
    data: Views,
    missing: list[int],
    keys: list[list[tuple[bytes, list[bytes]]]],
    stores: list[FeatureStore],
    resources: Resources,
) -> None:
    accelerator = resources.accelerator
    loader = DataLoader(
        _Views(data, missing),
        batch_size=None,
        num_workers=resources.num_workers,
        worker_init_fn=leave_signals,
    )
    bar = tqdm(
        plainly(loader),
        desc="frozen features",
        total=len(missing),
        unit="picture",
        disable=not resources.progress or not missing,
    )
    with eval_view(model) as model, torch.no_grad(), accelerator.autocast():
        for views in _chunks(bar, PICTURES_PER_CHUNK):
            images, patches, image_keys, patch_keys = [], [], [], []
            for index, image, parts in views:
                for mirrored, (image_key, own_patch_keys) in enumerate(keys[index]):
                    if image_key not in stores[0]:  # fit_global_head may have seen it
                        images.append((image.flip(-1) if mirrored else image)[None])
                        image_keys.append(image_key)
                    patches.append(parts.flip(-1) if mirrored else parts)
                    patch_keys.extend(own_patch_keys)
            if images:
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
        found.append(_kept(backbone(*cast(backbone, some.to(accelerator.device))), pooled))
    return torch.cat(found)


def _kept(feature_map: Tensor, pooled: bool) -> Tensor:
    """Return what is kept of a map: its mean, or all of it; in float32, or wider as it is."""
    kept = (feature_map.mean((2, 3)) if pooled else feature_map).cpu()
    return kept if kept.dtype == torch.float64 else kept.float()
