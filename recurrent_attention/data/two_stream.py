"""An image and its patches, ready for the two streams."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from recurrent_attention._arguments import side, whole_number
from recurrent_attention._devices import pictures_on_cpu
from recurrent_attention._errors import printable
from recurrent_attention.data.augmentation import (
    TRIES,
    Augment,
    augment_picture,
    augment_view,
    check_crop_scale,
    random_region,
    takes_boxes,
)
from recurrent_attention.data.boxes import Boxes
from recurrent_attention.data.pictures import Pictures, require_pictures
from recurrent_attention.images.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    cut_views,
    reduction_for,
    resampling,
)
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.ops.boxes import check_boxes, clip_boxes, mirror_boxes


class TwoStreamSample(NamedTuple):
    """One picture as both streams see it.

    Attributes:
        image: (c h w) the whole picture, normalised.
        patches: (p c h w) parts of it, cut out of the picture at its own resolution, normalised.
        label: class index in [0, k).
        boxes: (p 4) where the patches lie, xyxy in pixels of `image`.
    """

    image: Tensor
    patches: Tensor
    label: int
    boxes: Tensor


class TwoStreamDataset(Dataset[TwoStreamSample]):
    """Pair each picture with its patches, by file name.

    Patches are cut out of the original picture, at whole pixels, not out of the resized one. A
    picture is decoded once, and a JPEG much larger than its views at a fraction of its size. In
    training, patches are drawn at random (twice only if a crop leaves too few) and kept best first;
    in evaluation they are the first `num_patches`. A random crop or flip, or a transform of yours,
    changes picture and boxes together.

    Args:
        pictures: what to read.
        boxes: relative file name to (n 4) xyxy in pixels of the picture, best first; tensors,
            arrays or lists.
        image_size: side of the square image; the picture's aspect ratio is lost, as in the paper.
        patch_size: side of the square patches.
        num_patches: p, patches per image.
        train: draw patches at random, and flip and crop as told; otherwise everything is fixed.
        flip: in training, mirror a picture with probability 1/2.
        crop_scale: in training, the range of the random crop's area as a share of the picture, or
            None for the whole picture.
        augment: in training, a transform of `torchvision.transforms.v2`, or a function that takes
            and returns a `tv_tensors.Image` (c h w) of uint8 and its `tv_tensors.BoundingBoxes`.
            It gets the picture before crop, flip and normalisation. One that takes no boxes, such
            as v2's `RandAugment`, gets each view by itself instead, resized and flipped.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        interpolation: "bilinear", "bicubic", "lanczos" or "nearest".

    Raises:
        ValueError: if a picture has no boxes or too few, or a number is out of range.
        TypeError: if `pictures` are no `Pictures`, `boxes` no mapping, or `augment` returns
            something else than it should.

    Random numbers come from torch's global generator.
    """

    def __init__(
        self,
        pictures: Pictures,
        boxes: Mapping[str, Any],
        *,
        image_size: int = 448,
        patch_size: int = 224,
        num_patches: int = 1,
        train: bool = False,
        flip: bool = True,
        crop_scale: tuple[float, float] | None = None,
        augment: Augment | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bicubic",
    ) -> None:
        image_size, patch_size = side(image_size, "image_size"), side(patch_size, "patch_size")
        num_patches = whole_number(num_patches, "num_patches")
        resampling(interpolation)  # refuses what it does not know
        check_crop_scale(crop_scale)
        require_pictures(pictures)
        if not isinstance(boxes, Mapping):
            raise TypeError(
                "Expected `boxes` to map each picture's relative file name to its boxes, but got "
                f"{type(boxes).__name__}."
            )
        table = Boxes(boxes, pictures.names)
        few = (table.counts() < num_patches).nonzero()[:, 0].tolist()
        if few:
            name = pictures.names[few[0]]
            raise ValueError(
                f"Expected at least num_patches={num_patches} boxes for each picture, but "
                f"{printable(name)} has {len(table[name])}."
            )
        self.pictures = pictures
        self.boxes: Mapping[str, Tensor] = table
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_patches = num_patches
        self.train = train
        self.flip = flip
        self.crop_scale = crop_scale
        self.augment = augment
        self.augments_boxes = augment is None or takes_boxes(augment, len(mean))
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation

    @classmethod
    def for_model(
        cls,
        model: TwoStreamNetwork,
        pictures: Pictures,
        boxes: Mapping[str, Any],
        *,
        train: bool = False,
        num_patches: int | None = None,
        flip: bool = True,
        crop_scale: tuple[float, float] | None = None,
        augment: Augment | None = None,
    ) -> Self:
        """Build the data set that a model wants: its sizes, channels and normalisation.

        Args:
            model: names `image_size`, `patch_size`, `mean`, `std`, `interpolation`, and the mode in
                which pictures are opened.
            pictures: as in the class.
            boxes: as in the class.
            train: as in the class.
            num_patches: as in the class; default: the model's.
            flip: as in the class.
            crop_scale: as in the class.
            augment: as in the class.

        Returns:
            The data set.

        Example:
            >>> import tempfile; from PIL import Image
            >>> from recurrent_attention import TwoStreamClassifier
            >>> root = tempfile.mkdtemp()
            >>> Image.new("RGB", (30, 20)).save(f"{root}/a.png")
            >>> model = TwoStreamClassifier("test_vit", 1, image_size=64, patch_size=32)
            >>> pictures = Pictures(root, ["a.png"], [0], ["bird"])
            >>> data = TwoStreamDataset.for_model(model, pictures, {"a.png": [[0, 0, 20, 20]]})
            >>> data.mean, data[0].image.shape
            ((0.5, 0.5, 0.5), torch.Size([3, 64, 64]))
        """
        look = model.data_config
        return cls(
            pictures.for_channels(model.global_backbone.in_chans),
            boxes,
            image_size=model.image_size,
            patch_size=model.patch_size,
            num_patches=model.num_patches if num_patches is None else num_patches,
            train=train,
            flip=flip,
            crop_scale=crop_scale,
            augment=augment,
            mean=look["mean"],
            std=look["std"],
            interpolation=look["interpolation"],
        )

    def __len__(self) -> int:
        return len(self.pictures)

    @pictures_on_cpu()
    def __getitem__(self, index: int) -> TwoStreamSample:
        size = self.pictures.size(index)
        boxes = self._checked_boxes(index, size)
        pixels = None
        if self.train and self.augment is not None and self.augments_boxes:
            pixels, boxes = self._augmented(index, size, boxes)
            size = (pixels.shape[2], pixels.shape[1])
        region = _whole(size)
        if self.train and self.crop_scale:
            region, boxes = random_region(size, boxes, self.crop_scale)
        if self.train:
            order = torch.randperm(len(boxes))
            order = order.repeat(-(-self.num_patches // len(boxes)))  # a crop can leave too few
            boxes = boxes[order[: self.num_patches].sort().values]
        else:
            boxes = boxes[: self.num_patches]
        if pixels is None:
            pixels = self._decoded(index, size, region, boxes)
        (image,) = self._views(pixels, size, region[None], self.image_size)
        patches = self._views(pixels, size, boxes, self.patch_size)
        scale = self.image_size / (region[2:] - region[:2])
        boxes = (boxes - region[:2].repeat(2)) * scale.repeat(2)
        if self.train and self.flip and bool(torch.rand(()) < 0.5):
            image, patches = image.flip(-1), patches.flip(-1)
            boxes = mirror_boxes(boxes, self.image_size)
        if self.train and self.augment is not None and not self.augments_boxes:
            change = partial(augment_view, self.augment, mean=self.mean, std=self.std)
            image, patches = change(image), torch.stack([change(patch) for patch in patches])
        return TwoStreamSample(image, patches, self.pictures.labels[index], boxes)

    @pictures_on_cpu()
    def fixed_views(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the whole picture and all its patches, without randomness.

        A large JPEG with small boxes is decoded twice, coarsely for the whole picture and finely
        for the patches, so that the pixels of the whole picture do not depend on its boxes.

        Args:
            index: of the picture.

        Returns:
            (c h w) and (n c h w) for its n boxes.
        """
        size = self.pictures.size(index)
        whole, boxes = _whole(size)[None], self._checked_boxes(index, size)
        of_whole, of_boxes = self.reductions(size, boxes)
        pixels = self.pictures.pixels(index, reduction=of_whole)
        (image,) = self._views(pixels, size, whole, self.image_size)
        if of_boxes < of_whole:
            pixels = self.pictures.pixels(index, reduction=of_boxes)
        return image, self._views(pixels, size, boxes, self.patch_size)

    def reductions(self, size: tuple[int, int], boxes: Tensor) -> tuple[int, int]:
        """Return how far `fixed_views` reduces a JPEG of that size: whole, and for its boxes."""
        of_whole = reduction_for(size, self.image_size)
        inside = clip_boxes(boxes, _whole(size))
        return of_whole, min(of_whole, reduction_for(_sides(inside), self.patch_size))

    def _checked_boxes(self, index: int, size: tuple[int, int]) -> Tensor:
        name = self.pictures.names[index]
        boxes = self.boxes[name]
        check_boxes(boxes, size, name)
        return clip_boxes(boxes, _whole(size))

    def _augmented(self, index: int, size: tuple[int, int], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a picture, and transform it with its boxes; draw again if none is left."""
        pixels = self._decoded(index, size, _whole(size), boxes)
        boxes = boxes * _shrinking(pixels, size)
        assert self.augment is not None
        for _ in range(TRIES):
            changed, moved = augment_picture(self.augment, pixels, boxes)
            if len(moved):
                return changed, moved
        return pixels, boxes

    def _decoded(self, index: int, size: tuple[int, int], region: Tensor, boxes: Tensor) -> Tensor:
        """Decode a picture once, as finely as the views of `region` and `boxes` need it.

        Both are in pixels of the whole picture, which has `size`. Return (c h w) uint8, possibly
        fewer pixels than that.
        """
        of_region = reduction_for(_sides(region[None]), self.image_size)
        reduction = min(of_region, reduction_for(_sides(boxes), self.patch_size))
        return self.pictures.pixels(index, reduction=reduction)

    def _views(self, pixels: Tensor, size: tuple[int, int], boxes: Tensor, side: int) -> Tensor:
        """Cut boxes (n 4), in pixels of the whole picture, out of what was decoded of it."""
        boxes = boxes * _shrinking(pixels, size)
        return cut_views(
            pixels, boxes, side, mean=self.mean, std=self.std, interpolation=self.interpolation
        )


def _shrinking(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return by what boxes (n 4) on a picture of a size are multiplied on its decoded pixels."""
    return torch.tensor(pixels.shape[:0:-1] * 2) / torch.tensor(size * 2)


def _whole(size: tuple[int, int]) -> Tensor:
    return torch.tensor([0.0, 0.0, *size])


def _sides(boxes: Tensor) -> list[float]:
    return (boxes[:, 2:] - boxes[:, :2]).flatten().tolist()
