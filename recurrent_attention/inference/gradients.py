"""Where both streams look for a class: Grad-CAM of every step, at the price of one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import one_hot

from recurrent_attention._modes import eval_view
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput
from recurrent_attention.inference.checks import check_answers
from recurrent_attention.inference.target_class import Target, class_indices, readable
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.ops import crop_patches


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StreamMaps:
    """What both streams saw that speaks for one class an image: the fields of `Explanation`."""

    step_maps: Tensor
    global_map: Tensor
    step_weights: Tensor
    patch_weights: Tensor | None
    step_logits: Tensor
    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor
    target: Tensor
    images: Tensor
    patches: Tensor
    boxes: Tensor | None
    pictures: tuple[Image.Image | None, ...]
    cell_offsets: Callable[[], tuple[float, float]]
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prefix_logits: Tensor | None = None
    temperatures: tuple[float, ...] | None = None
    against: Tensor | None = None


def explain_views(
    model: TwoStreamNetwork,
    images: Tensor,
    patches: Tensor | None = None,
    *,
    boxes: Tensor | None = None,
    target: Target = None,
    against: Target = None,
    first: int = 0,
) -> StreamMaps:
    r"""Show what in images and patches speaks for a class, step by step.

    Grad-CAM: with A the feature map of a stream (c h w) and y the target's logit,

        alpha_c = mean_ij dy / dA_cij        map_ij = max(0, sum_c alpha_c A_cij)

    For the global stream y is the global logit. For the local stream there is one map for each step
    t, with y the classifier's logit for that step's state phi_t alone. Given a class `against`, y
    is the target's logit minus that of this class, and nothing is cut off: cells below 0 speak for
    the other class.

    Every backbone runs once, without gradient, and the heads once: they see the map by its mean
    only, so the gradient at that mean, divided by the number of cells, is alpha, and all T
    gradients come from one batched backward pass of the head.

    The model is explained as it answers in eval mode. Its modes, `.grad`, `requires_grad`, hooks
    and statistics stay as they are, and so does the random state. It works with frozen backbones,
    and under `torch.no_grad()`, `torch.inference_mode()` and autocast; the heads then run in the
    precision of their weights, as gradients through T steps of a half-precision LSTM are coarse.

    Args:
        model: whose answer to explain.
        images: (b 3 h w) floating point, normalised as the model's `data_config` says.
        patches: (b 3 h w), or (b p 3 h w) for p patches per image, normalised likewise. None: they
            are cut out of `images`, at `boxes` or where the model itself proposes.
        boxes: (b p 4) where the patches lie, xyxy in pixels of `images`.
        target: the class to explain: an index in [0, k), a name of `model.class_names`, or b of
            them; None for the class that both streams together answer.
        against: the class to compare it with, named likewise; None: the class by itself.
        first: what a message counts the images from, as they may be some of more.

    Returns:
        `StreamMaps`, on the device of the images, without autograd history.

    Raises:
        ValueError: if a shape does not fit, there is no such class, or `against` is the target.
        TypeError: if images are not floating point, or classes neither indices nor names.

    Example:
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", num_classes=7, image_size=64, patch_size=64)
        >>> images, patches = torch.randn(2, 3, 64, 64), torch.randn(2, 5, 3, 64, 64)
        >>> found = explain_views(model, images, patches, target=3)
        >>> found.step_maps.shape, found.global_map.shape, found.target
        (torch.Size([2, 5, 10, 2, 2]), torch.Size([2, 2, 2]), tensor([3, 3]))

    Differences from the paper:
        None known in what is computed; the authors' script, which cannot run, explains each step's
        own logits as well.

    References:
        Shroff et al., arXiv:2005.10979, section 4.2; Selvaraju et al., "Grad-CAM", ICCV 2017,
        arXiv:1610.02391.
    """
    if patches is None:
        boxes = model.propose(images) if boxes is None else boxes
        patches = crop_patches(images, boxes, size=model.patch_size)
    if patches.ndim == 4:
        patches = rearrange(patches, "b c h w -> b 1 c h w")
    _check_boxes(boxes, patches)
    known = (len(images), model.num_classes, model.class_names)
    wanted = class_indices(target, *known)
    other = class_indices(against, *known, argument="against")
    device_type = images.device.type
    with eval_view(model) as model, torch.inference_mode(False):
        with torch.no_grad(), _own_autocast(device_type):
            maps = model.encode(images, patches)
        # The heads' dtype is that of the maps already, unless autocast changed them.
        dtype = next(model.global_head.parameters()).dtype
        global_map, local_maps = (features.detach().to(dtype) for features in maps)
        with torch.autocast(device_type, enabled=False), torch.enable_grad():
            global_leaf = global_map.detach().requires_grad_()
            pooled = reduce(local_maps, "b p c h w -> b p c", "mean").requires_grad_()
            output = _classify(model, TwoStreamFeatures(global_leaf, pooled))
            check_answers(output.global_logits, output.local_logits)
            if wanted is None:
                wanted = output.logits.argmax(dim=1)
            wanted = wanted.to(images.device)
            direction = one_hot(wanted, model.num_classes)
            if other is not None:
                other = other.to(images.device)
                check_differs(wanted, other, model.class_names, first)
                direction = direction - one_hot(other, model.num_classes)
            gradients = _gradients(output, direction.to(dtype), global_leaf, pooled)
            global_gradient, step_gradients = gradients
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            alpha = reduce(global_gradient, "b c h w -> b c", "mean")
            seen = einsum(alpha, global_map, "b c, b c h w -> b h w")
            alpha = step_gradients / local_maps[0, 0, 0].numel()
            step_seen = einsum(alpha, local_maps, "t b p c, b p c h w -> b p t h w")
            config = model.data_config
            weights, by_looks = output.patch_weights, output.prefix_logits
            return StreamMaps(
                step_maps=step_seen.relu() if other is None else step_seen,
                global_map=seen.relu() if other is None else seen,
                step_weights=output.step_weights.detach(),
                patch_weights=None if weights is None else weights.detach(),
                step_logits=output.step_logits.detach(),
                logits=output.logits.detach(),
                global_logits=output.global_logits.detach(),
                local_logits=output.local_logits.detach(),
                target=wanted,
                images=images.detach(),
                patches=patches.detach(),
                boxes=boxes,
                pictures=(None,) * len(images),
                cell_offsets=partial(_cell_offsets, model),
                class_names=model.class_names,
                mean=tuple(config["mean"]),
                std=tuple(config["std"]),
                prefix_logits=None if by_looks is None else by_looks.detach(),
                temperatures=model.temperatures,
                against=other,
            )


def _cell_offsets(model: TwoStreamNetwork) -> tuple[float, float]:
    return model.cell_offset, model.local_cell_offset


def check_differs(
    target: Tensor, other: Tensor, class_names: Sequence[str] | None, first: int
) -> None:
    """Raise a ValueError where a class is compared with itself; count images from `first`."""
    same = (target == other).nonzero().flatten().tolist()
    if same:
        index = int(target[same[0]])
        name = index if class_names is None else repr(readable(class_names[index]))
        raise ValueError(
            "Expected `against` to be another class than the one that is explained, but both are "
            f"{name} for images[{first + same[0]}]. Name the class to explain as `target`."
        )


def _gradients(
    output: TwoStreamOutput, direction: Tensor, global_leaf: Tensor, pooled: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate the global logit at its map (b c h w), each step's at its features (t b p c).

    Of the logits (b ... k) their product with the direction (b k) is meant. Images and patches do
    not see each other, so sums over them keep each one's own gradient.
    """
    global_logit = einsum(output.global_logits, direction, "b k, b k ->")
    (global_gradient,) = torch.autograd.grad(global_logit, global_leaf)
    logits = einsum(output.step_logits, direction, "b p t k, b k -> b p t")
    batch, num_patches, steps = logits.shape
    one_step = torch.eye(steps, dtype=logits.dtype, device=logits.device)
    one_step = repeat(one_step, "step t -> step b p t", b=batch, p=num_patches)
    (step_gradients,) = torch.autograd.grad(
        logits, pooled, grad_outputs=one_step, is_grads_batched=True
    )
    return global_gradient, step_gradients


class _Heads(nn.Module):
    """Gives `classify` the name that `torch.func.functional_call` calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, features: TwoStreamFeatures) -> TwoStreamOutput:
        output: TwoStreamOutput = self.model.classify(features)
        return output


def _classify(model: TwoStreamNetwork, features: TwoStreamFeatures) -> TwoStreamOutput:
    """Run the heads; weights made under `inference_mode`, which autograd refuses, are copied."""
    copies = {
        f"model.{child_name}.{name}": parameter.clone()
        for child_name, child in model.named_children()
        if not child_name.endswith("backbone")
        for name, parameter in child.named_parameters()
        if parameter.is_inference()
    }
    if not copies:
        return model.classify(features)
    output: TwoStreamOutput = torch.func.functional_call(_Heads(model), copies, (features,))
    return output


def _own_autocast(device_type: str) -> torch.autocast:
    """Go on with the caller's autocast, without its cache of weights in half precision.

    What is cast without gradient must not get into that cache: training in the same autocast region
    would find it there, and its weights would get no gradients.
    """
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )


def _check_boxes(boxes: Tensor | None, patches: Tensor) -> None:
    if boxes is None or patches.ndim != 5:  # then `encode` says what is wrong with the patches
        return
    expected = (*patches.shape[:2], 4)
    if tuple(boxes.shape) != expected:
        raise ValueError(
            f"Expected `boxes` to have shape {expected}, one box for each patch, but got "
            f"{tuple(boxes.shape)}."
        )
