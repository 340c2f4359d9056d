"""The pixels in a box, resized to a patch, as a function of tensors that has a gradient."""

import torch
from einops import rearrange, repeat
from torch import Tensor
from torchvision.ops import roi_align

from recurrent_attention.ops._shapes import check_shape
from recurrent_attention.ops.boxes import are_inside, check_boxes


def crop_patches(images: Tensor, boxes: Tensor, *, size: int) -> Tensor:
    """Cut boxes out of images and resize them to squares, antialiased.

    A pixel of a patch is the mean of bilinear samples, one where the box is enlarged, else one for
    each pixel that it replaces. Enlarged patches equal PIL's `resize(box=..., resample=BILINEAR)`
    up to its rounding; shrunk two to three times they differ by 1 to 2 of 255 levels on average,
    since PIL weighs the pixels by a triangle and this counts them alike.

    Args:
        images: (b c h w) floating point.
        boxes: (b p 4) xyxy in pixels of `images`, at most 1 pixel outside, which is cut off.
        size: side of the patches in pixels.

    Returns:
        (b p c size size), differentiable in `images`, in their type.

    Raises:
        ValueError: if a shape does not fit, or a box is empty or outside its image.
        TypeError: if one of the two is not floating point.

    Example:
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> crop_patches(images, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), size=2)[0, 0, 0]
        tensor([[ 2.5000,  4.5000],
                [10.5000, 12.5000]])
    """
    check_shape("images", images, "(b, c, h, w)")
    check_shape("boxes", boxes, "(b, p, 4)")
    batch = images.shape[0]  # len() would make a constant of it in torch.export
    if boxes.shape[0] != batch:
        raise ValueError(
            f"Expected `boxes` to hold boxes of as many images as `images`, but got batches of "
            f"{boxes.shape[0]} and {batch}."
        )
    if size < 1:
        raise ValueError(f"Expected `size` to be at least 1, but got {size}.")
    wide = torch.promote_types(images.dtype, torch.float32)  # roi_align knows no bfloat16
    height, width = images.shape[2:]
    corners = boxes.detach().to(images.device, wide)
    edge = corners.new_tensor([width, height, width, height])
    inside = corners.clamp(min=0).minimum(edge)
    if not torch.compiler.is_compiling() and not are_inside(corners, (width, height)).all():
        for image, own in enumerate(boxes):
            check_boxes(own, (width, height), f"image {image}")
    image_index = torch.arange(batch, device=images.device, dtype=wide)
    rois = torch.cat([repeat(image_index, "b -> b p 1", p=boxes.shape[1]), inside], dim=2)
    flat: Tensor = roi_align(
        images.to(wide), rearrange(rois, "b p corners -> (b p) corners"), size, aligned=True
    )
    return rearrange(flat.to(images.dtype), "(b p) c h w -> b p c h w", p=boxes.shape[1])
