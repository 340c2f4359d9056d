"""Features of frozen backbones, computed once and kept on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recurrent_attention._modes import eval_view
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.augmentation import Augment, name_of_augment
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.data.two_stream import TwoStreamDataset
from recurrent_attention.training.feature_store import (
    KEYS_AT_ONCE,
    FeatureStore,
    Numbers,
    Pending,
    batched,
    digest_of,
    key_of,
    keys_of_each,
)
from recurrent_attention.training.networks import in_dtype_of
from recurrent_attention.training.processes import Resources, share_of_missing
from recurrent_attention.training.reading import Appearances, WholePictures, fill_store, read_each
from recurrent_attention.training.samples import Samples

PICTURES_PER_CHUNK = 32  # with 10 patches, mirrored too: 0.4 GB at 224
VIEWS_PER_PASS_CPU = 8  # MobileNetV2 at 224 on 2 cores: 20 ms a view, with 32 at once 39 ms
VIEWS_PER_PASS = 64  # on other devices


class FeatureSample(NamedTuple):
    """One picture as the heads see it: (c) or, with `global_head="conv"`, (c h w); (p c)."""

    global_features: Tensor
    local_features: Tensor
    label: int


@dataclass(eq=False)
class FeatureDataset(Dataset[FeatureSample]):
    """The frozen features of a `TwoStreamDataset`, drawn as that data set draws its pictures.

    Its `train`, `flip` and `num_patches` hold here as well.

    Attributes:
        data: what is shown.
        global_store: of the whole pictures.
        local_store: of the patches.
        rows: flat, of picture after picture (v 1 + p): for each of its v variants (as it is, and
            mirrored where that is drawn) the position in `global_store`, and those of its p patches
            in `local_store`.
        starts: (n + 1) where each picture begins in `rows`.
    """

    data: Samples
    global_store: FeatureStore
    local_store: FeatureStore
    rows: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def positions(self, index: int) -> Tensor:
        """Return the positions (v 1 + p) of a picture."""
        start, end = self.starts[index : index + 2].tolist()
        part, _ = self.data.place(index)
        return self.rows[start:end].view(len(_variants(part)), -1)

    def __getitem__(self, index: int) -> FeatureSample:
        return self.read([index], [self.draw(index)])[0]

    def draw(self, index: int) -> Tensor:
        """Draw a variant of a picture and patches of it; return their positions (1 + p)."""
        variants = self.positions(index)
        variant = int(torch.randint(len(variants), ())) if len(variants) > 1 else 0
        part, _ = self.data.place(index)
        whole, patches = variants[variant, :1], variants[variant, 1:]
        if part.train:
            patches = patches[torch.randperm(len(patches))[: part.num_patches].sort().values]
        return torch.cat([whole, patches[: part.num_patches]])

    def read(self, indices: Sequence[int], drawn: Sequence[Tensor]) -> list[FeatureSample]:
        """Read what was drawn of pictures, all at once, which takes less than half the time."""
        whole = self.global_store.rows(torch.stack([positions[0] for positions in drawn]))
        looks = self.local_store.rows(torch.cat([positions[1:] for positions in drawn]))
        by_picture = torch.split(looks, [len(positions) - 1 for positions in drawn])
        labels = [self.data.labels[index] for index in indices]
        return [FeatureSample(*one) for one in zip(whole, by_picture, labels, strict=True)]


def check_keepable(augment: Augment | None, crop_scale: tuple[float, float] | None) -> None:
    """Refuse views that differ from epoch to epoch, whose features cannot be kept."""
    if augment is not None:
        raise ValueError(
            "Expected data for frozen backbones to show pictures as they are, whose features "
            f"can be kept, but got augment={name_of_augment(augment)}. Pass augment=None, or on "
            "the command line leave out --augment."
        )
    if crop_scale is not None:
        raise ValueError(
            "Expected data for frozen backbones to show whole pictures, whose features can be "
            f"kept, but got crop_scale={crop_scale}. Pass crop_scale=None."
        )


def frozen_features(
    model: TwoStreamClassifier, data: Samples, resources: Resources
) -> FeatureDataset:
    """Compute what frozen backbones see in every picture and patch, or take it from the cache.

    An entry is found by the weights, the picture's content, its box, the size, the normalisation
    and the precision; if one of them changes, it is computed anew. With `train` and `flip` the
    mirrored views are seen as well. Several processes share the work. Views that are cropped at
    random cannot be kept: they are a ValueError.
    """
    for part in data.parts:
        if part.train:
            check_keepable(part.augment, part.crop_scale)
    appearances = Appearances(data.place, len(data), resources)
    seen = _Seen(
        data, appearances, *_store(model, True, resources), *_store(model, False, resources)
    )
    found = [seen.find(some) for some in batched(range(len(data)), KEYS_AT_ONCE)]
    rows = np.concatenate([rows for rows, _ in found])
    starts = np.concatenate([np.zeros(1, np.int64), *(counts for _, counts in found)]).cumsum()
    del found
    stores = seen.global_store, seen.local_store
    features = FeatureDataset(data, *stores, torch.from_numpy(rows), torch.from_numpy(starts))
    absent = np.minimum.reduceat(rows, starts[:-1]) < 0
    lacking = np.flatnonzero(absent)
    _fill(features, seen, share_of_missing(lacking), model, resources)
    for store in stores:
        store.exchange()
    for start in range(0, len(lacking), KEYS_AT_ONCE):
        some = lacking[start : start + KEYS_AT_ONCE].tolist()
        places = [np.arange(*starts[index : index + 2]) for index in some]
        rows[np.concatenate(places)] = seen.find(some)[0]  # `features` has the same memory
    for store in stores:
        store.forget_keys()
    return features


def whole_features(
    model: TwoStreamClassifier, pictures: Pictures, resources: Resources
) -> tuple[FeatureStore, Tensor]:
    """Compute what the global backbone sees in every picture, as it is and mirrored.

    Return a store of features (c), or (c h w) where the head needs maps, and the positions (n 2) in
    it. They are those of `frozen_features`, which does not compute them again.
    """
    digest, store = _store(model, True, resources)
    shown = WholePictures(model, pictures, model.image_size)

    def keys_of(look: list[Any]) -> list[bytes]:
        return [key_of(digest, *look, shown.side, mirrored) for mirrored in (False, True)]

    with eval_view(model) as view, torch.no_grad():

        def see(views: Tensor) -> list[Tensor]:
            pooled = view.global_convs is None
            return [_kept(view.global_backbone(seen), pooled) for seen in (views, views.flip(-1))]

        positions, _ = fill_store(store, shown, keys_of, see, view, resources, "features")
    return store, positions


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


def _variants(part: TwoStreamDataset) -> tuple[bool, ...]:
    """Return which variants of a picture are drawn: mirrored or not."""
    return (False, True) if part.train and part.flip else (False,)


@dataclass(eq=False)
class _Seen:
    """Where the stores hold what the backbones saw in the pictures of a data set."""

    data: Samples
    appearances: Appearances
    global_digest: str
    global_store: FeatureStore
    local_digest: str
    local_store: FeatureStore

    def keys(self, index: int) -> list[tuple[bytes, list[bytes]]]:
        """Return the keys of a picture and of its patches, for each of its variants."""
        part, _ = self.data.place(index)
        look, boxes = self.appearances[index], self.data.boxes(index)
        width, height = self.appearances.sizes[index].tolist()
        _, reduction = part.reductions((width, height), boxes)
        decoding = [reduction] if reduction > 1 else []  # as coarse as all boxes together allow
        ends = [(box, *decoding) for box in boxes.tolist()]
        return [
            (
                key_of(self.global_digest, *look, part.image_size, mirrored),
                keys_of_each((self.local_digest, *look, part.patch_size, mirrored), ends),
            )
            for mirrored in _variants(part)
        ]

    def find(self, indices: Sequence[int]) -> tuple[Numbers, Numbers]:
        """Return the positions of pictures, as in `FeatureDataset.rows`, and how many each has."""
        by_picture = [self.keys(index) for index in indices]
        keys = [variant for variants in by_picture for variant in variants]
        lengths = np.array([1 + len(patches) for _, patches in keys])
        found = np.empty(lengths.sum(), np.int64)
        is_whole = np.zeros(len(found), bool)
        is_whole[lengths.cumsum() - lengths] = True
        found[is_whole] = self.global_store.find([image for image, _ in keys])
        found[~is_whole] = self.local_store.find([key for _, own in keys for key in own])
        return found, np.array([sum(1 + len(p) for _, p in some) for some in by_picture])


@dataclass(eq=False)
class _FixedViews(Dataset[tuple[int, Tensor, Tensor]]):
    data: Samples

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        part, place = self.data.place(index)
        return (index, *part.fixed_views(place))


def _fill(
    features: FeatureDataset, seen: _Seen, missing: list[int], model: TwoStreamClassifier,
    resources: Resources,
) -> None:  # fmt: skip
    """Compute all features of the missing pictures, and put them into the stores."""
    read = read_each(_FixedViews(seen.data), missing, None, resources, "frozen features")
    pooled = model.global_convs is None
    whole, parts = Pending(seen.global_store), Pending(seen.local_store)
    with eval_view(model) as model, torch.no_grad(), resources.accelerator.autocast():
        for views in batched(read, PICTURES_PER_CHUNK):
            images, patches, image_keys, patch_keys = [], [], [], []
            for index, image, own in views:
                known = (features.positions(index)[:, 0] >= 0).tolist()  # by fit_global_head
                for mirrored, (image_key, keys) in enumerate(seen.keys(index)):
                    if not known[mirrored]:
                        images.append((image.flip(-1) if mirrored else image)[None])
                        image_keys.append(image_key)
                    patches.append(own.flip(-1) if mirrored else own)
                    patch_keys.extend(keys)
            if images:
                whole.add(image_keys, _run(model.global_backbone, images, pooled))
            parts.add(patch_keys, _run(model.local_backbone, patches, True))
    whole.flush()
    parts.flush()


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
