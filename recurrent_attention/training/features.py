"""Features of frozen backbones, computed once and kept on disk."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from recurrent_attention._modes import eval_view
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.augmentation import name_of_augment
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.training.feature_store import FeatureStore, digest_of, key_of
from recurrent_attention.training.networks import in_dtype_of
from recurrent_attention.training.processes import Resources, share_of_missing
from recurrent_attention.training.reading import WholePictures, fill_store, look_of, read_each
from recurrent_attention.training.views import Views

PICTURES_PER_CHUNK = 32  # with 10 patches, mirrored too: 0.4 GB at 224; a kill loses no more
VIEWS_PER_PASS_CPU = 8  # MobileNetV2 at 224 on 2 cores: 20 ms a view, with 32 at once 39 ms
VIEWS_PER_PASS = 64  # on other devices


class FeatureSample(NamedTuple):
    """One picture as the heads see it: (c) or, with `global_head="conv"`, (c h w); (p c)."""

    global_features: Tensor
    local_features: Tensor
    label: int


class Keys(NamedTuple):
    """Where the stores hold a picture, as it is or mirrored, and its patches."""

    image: bytes
    patches: list[bytes]


@dataclass(eq=False)
class FeatureDataset(Dataset[FeatureSample]):
    """The frozen features of a `TwoStreamDataset`, drawn as that data set draws its pictures.

    Its `train`, `flip` and `num_patches` hold here as well. `keys` has, for each picture, those of
    each variant: as it is, and mirrored where that is drawn.
    """

    data: Views
    global_store: FeatureStore
    local_store: FeatureStore
    keys: list[list[Keys]]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> FeatureSample:
        variants = self.keys[index]
        variant = int(torch.randint(len(variants), ())) if len(variants) > 1 else 0
        keys = variants[variant]
        part, _ = self.data.places[index]
        order, count = range(len(keys.patches)), part.num_patches
        chosen = torch.randperm(len(order))[:count].sort().values if part.train else order
        patches = [self.local_store[keys.patches[int(i)]] for i in chosen[:count]]
        label = self.data.labels[index]
        return FeatureSample(self.global_store[keys.image], torch.stack(patches), label)


def frozen_features(
    model: TwoStreamClassifier, data: Views, resources: Resources
) -> FeatureDataset:
    """Compute what frozen backbones see in every picture and patch, or take it from the cache.

    An entry is found by the weights, the picture's content, its box, the size, the normalisation
    and the precision; if one of them changes, it is computed anew. With `train` and `flip` the
    mirrored views are seen as well. Several processes share the work. Views that are cropped at
    random cannot be kept: they are a ValueError.
    """
    for part in data.parts:
        if part.train and part.augment is not None:
            raise ValueError(
                "Expected data for frozen backbones to show pictures as they are, whose features "
                f"can be kept, but got augment={name_of_augment(part.augment)}. Pass augment=None."
            )
        if part.train and part.crop_scale is not None:
            raise ValueError(
                "Expected data for frozen backbones to show whole pictures, whose features can be "
                f"kept, but got crop_scale={part.crop_scale}. Pass crop_scale=None."
            )
    global_digest, global_store = _store(model, True, resources)
    local_digest, local_store = _store(model, False, resources)
    keys = [_keys(data, index, global_digest, local_digest) for index in range(len(data))]
    features = FeatureDataset(data, global_store, local_store, keys)
    missing = share_of_missing(
        index
        for index, variants in enumerate(keys)
        for own in variants
        if own.image not in global_store or any(key not in local_store for key in own.patches)
    )
    _fill(features, missing, model, resources)
    global_store.exchange()
    local_store.exchange()
    return features


def whole_features(model: TwoStreamClassifier, pictures: Pictures, resources: Resources) -> Tensor:
    """Compute what the global backbone sees in every picture, as it is and mirrored.

    Return (n 2 c), or (n 2 c h w) where the head needs maps. The features are kept with those of
    `frozen_features`, which does not compute them again.
    """
    digest, store = _store(model, True, resources)
    shown = WholePictures(model, pictures, model.image_size)
    keys = []
    for index in range(len(pictures)):
        look = [*look_of(shown, index), shown.side]
        keys.append([key_of(digest, *look, mirrored) for mirrored in (False, True)])
    with eval_view(model) as view, torch.no_grad():

        def see(views: Tensor) -> list[Tensor]:
            pooled = view.global_convs is None
            return [_kept(view.global_backbone(seen), pooled) for seen in (views, views.flip(-1))]

        fill_store(store, shown, keys, see, view, resources, "features")
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
    return digest, FeatureStore.of(digest, resources.cache_dir)


def _keys(data: Views, index: int, global_digest: str, local_digest: str) -> list[Keys]:
    part, place = data.places[index]
    look = look_of(part, place)
    boxes = data.boxes(index).tolist()
    variants = []
    for mirrored in (False, True) if part.train and part.flip else (False,):
        image = key_of(global_digest, *look, part.image_size, mirrored)
        patches = [key_of(local_digest, *look, part.patch_size, mirrored, box) for box in boxes]
        variants.append(Keys(image, patches))
    return variants


@dataclass(eq=False)
class _FixedViews(Dataset[tuple[int, Tensor, Tensor]]):
    data: Views

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        part, place = self.data.places[index]
        return (index, *part.fixed_views(place))


def _fill(
    features: FeatureDataset, missing: list[int], model: TwoStreamClassifier, resources: Resources
) -> None:
    """Compute all features of the missing pictures, and put them into the stores."""
    global_store = features.global_store
    read = read_each(_FixedViews(features.data), missing, None, resources, "frozen features")
    with eval_view(model) as model, torch.no_grad(), resources.accelerator.autocast():
        for views in _chunks(read, PICTURES_PER_CHUNK):
            images, patches, image_keys, patch_keys = [], [], [], []
            for index, image, parts in views:
                for mirrored, keys in enumerate(features.keys[index]):
                    if keys.image not in global_store:  # fit_global_head may have seen it
                        images.append((image.flip(-1) if mirrored else image)[None])
                        image_keys.append(keys.image)
                    patches.append(parts.flip(-1) if mirrored else parts)
                    patch_keys.extend(keys.patches)
            if images:
                found = _run(model.global_backbone, images, model.global_convs is None)
                global_store.add(image_keys, found)
            found = _run(model.local_backbone, patches, True)
            features.local_store.add(patch_keys, found)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _run(backbone: FeatureBackbone, views: list[Tensor], pooled: bool) -> Tensor:
    device = next(backbone.parameters()).device
    count = VIEWS_PER_PASS_CPU if device.type == "cpu" else VIEWS_PER_PASS
    found = []
    for some in torch.split(torch.cat(views), count):
        found.append(_kept(backbone(*in_dtype_of(backbone, some.to(device))), pooled))
    return torch.cat(found)


def _kept(feature_map: Tensor, pooled: bool) -> Tensor:
    """Return what is kept of a map: its mean, or all of it; in float32, or wider as it is."""
    kept = (feature_map.mean((2, 3)) if pooled else feature_map).cpu()
    return kept if kept.dtype == torch.float64 else kept.float()
