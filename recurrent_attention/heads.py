"""The layers on the two backbones: classifiers, two ways to look at patches, what comes out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from recurrent_attention.attention import AnytimeAttention

GLOBAL_CONV_CHANNELS = 1024  # of the two 1x1 convolutions in the authors' code


class TwoStreamOutput(NamedTuple):
    """The output of `TwoStreamClassifier`; logits are not softmaxed.

    Attributes:
        logits: (b k) global_logits + fusion_weight * local_logits.
        global_logits: (b k) of the whole image: the baseline.
        local_logits: (b k) of the patches, averaged over p, or weighted by `patch_weights`.
        step_logits: (b p t k) what each look at each patch would answer by itself.
        step_weights: (b p t) the temporal attention over the T looks at each patch; sums to 1 over
            t. All ones with t = 1 where `patch_weights` are learned.
        patch_weights: (b p) the learned attention over the patches, with one look at each; sums to
            1 over p. None with `patch_weighting="equal"`.
        boxes: (b p 4) xyxy in pixels of the images, where the model proposed its own patches, best
            first; None where patches were given.
        prefix_logits: (b p k) what both streams answer after 1, 2, ... p patches, the last of which
            are `logits`; with `patch_weighting="anytime"`, else None.
        local_prefix_logits: (b p k) the same of the local stream.
    """

    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor
    step_logits: Tensor
    step_weights: Tensor
    patch_weights: Tensor | None = None
    boxes: Tensor | None = None
    prefix_logits: Tensor | None = None
    local_prefix_logits: Tensor | None = None


class TwoStreamFeatures(NamedTuple):
    """The features of both backbones, before any head.

    Attributes:
        global_features: (b c h w) a map, or (b c) its mean over h w.
        local_features: (b p c h w) maps, or (b p c) their means over h w.
    """

    global_features: Tensor
    local_features: Tensor


def check_features_of_streams(features: Any) -> None:
    """Refuse what is not the features of both streams, or whose local ones have no axis p."""
    if not isinstance(features, tuple) or len(features) != 2:
        raise TypeError(
            "Expected `features` to be the TwoStreamFeatures of `encode`, but got "
            f"{type(features).__name__}."
        )
    shape = tuple(features[1].shape)
    if len(shape) not in (3, 5):
        raise ValueError(
            "Expected `local_features` to have shape (b, p, c, h, w) or (b, p, c), but got "
            f"{shape}."
        )


def conv_pair(channels: int) -> nn.Sequential:
    """Build the authors' two 1x1 convolutions: Kaiming initialised by fan-out, biases 0.

    Args:
        channels: of the map that they take; they give `GLOBAL_CONV_CHANNELS`.

    Returns:
        The two, each with its ReLU.
    """
    pair = nn.Sequential(
        nn.Conv2d(channels, GLOBAL_CONV_CHANNELS, 1),
        nn.ReLU(),
        nn.Conv2d(GLOBAL_CONV_CHANNELS, GLOBAL_CONV_CHANNELS, 1),
        nn.ReLU(),
    )
    for layer in pair:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return pair


def classifier(channels: int, num_classes: int) -> nn.Linear:
    """Build a classifier initialised as in the authors' code: weights N(0, 0.01), bias 0.

    Args:
        channels: of the pooled features.
        num_classes: k.

    Returns:
        The layer.
    """
    linear = nn.Linear(channels, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear


class Looks(NamedTuple):
    """What the local stream found in b images' p patches, in t looks at each.

    Attributes:
        step_logits: (b p t k).
        step_weights: (b p t), sums to 1 over t.
        patch_weights: (b p), sums to 1 over p, or None where patches count alike.
        prefix_logits: (b p k) after 1, 2, ... patches, or None where nothing was trained on them.
    """

    step_logits: Tensor
    step_weights: Tensor
    patch_weights: Tensor | None
    prefix_logits: Tensor | None = None

    def logits(self) -> Tensor:
        """Put the looks together: (b k)."""
        if self.prefix_logits is not None:
            return self.prefix_logits[:, -1]
        by_patch = weigh_steps(self.step_weights, self.step_logits)
        if self.patch_weights is None:
            return reduce(by_patch, "b p k -> b k", "mean")
        return einsum(self.patch_weights, by_patch, "b p, b p k -> b k")


def weigh_steps(weights: Tensor, logits: Tensor) -> Tensor:
    """Put the steps of each patch together.

    Args:
        weights: (b p t), sums to 1 over t.
        logits: (b p t k).

    Returns:
        (b p k). Of one step, whose weight is 1, a view: a copy would be as large as all logits.
    """
    if logits.shape[2] == 1:
        return logits[:, :, 0]
    return einsum(weights, logits, "b p t, b p t k -> b p k")


def fuse(
    global_logits: Tensor, looks: Looks, fusion_weight: float, boxes: Tensor | None
) -> TwoStreamOutput:
    """Put both streams together.

    Args:
        global_logits: (b k).
        looks: of the local stream.
        fusion_weight: of its logits.
        boxes: (b p 4) that are handed on, or None.

    Returns:
        `TwoStreamOutput`.
    """
    local_logits, by_looks = looks.logits(), looks.prefix_logits
    return TwoStreamOutput(
        torch.add(global_logits, local_logits, alpha=fusion_weight),
        global_logits,
        local_logits,
        looks.step_logits,
        looks.step_weights,
        looks.patch_weights,
        boxes,
        None
        if by_looks is None
        else torch.add(global_logits[:, None], by_looks, alpha=fusion_weight),
        by_looks,
    )


def look_repeatedly(
    attention: nn.Module, classify: Callable[[Tensor], Tensor], features: Tensor
) -> Looks:
    """Look at each patch for T steps and classify the states, as the paper does.

    Args:
        attention: `RecurrentRefinedAttention`, whose states are classified.
        classify: (... d) to (... k).
        features: (b p c h w), or (b p c).

    Returns:
        `Looks` at T steps of each patch.
    """
    num_patches = features.shape[1]
    found = attention(rearrange(features, "b p ... -> (b p) ..."))
    return Looks(
        rearrange(classify(found.states), "(b p) t k -> b p t k", p=num_patches),
        rearrange(found.weights, "(b p) t -> b p t", p=num_patches),
        None,
    )


def weigh_patches(
    attention: nn.Module, classify: Callable[[Tensor], Tensor], features: Tensor
) -> Looks:
    r"""Take the patches as the steps, and classify their features, weighted by the attention.

    With x_p the pooled features of patch p, alpha the temporal attention over the p steps, and an
    affine classifier, sum_p alpha_p classify(x_p) = classify(sum_p alpha_p x_p): the values that
    are weighted are the features, not the states, which only decide on the weights.

    Args:
        attention: (b p c) to its weights over the patches: `AnytimeAttention`, or
            `RecurrentRefinedAttention` with the patches as its steps.
        classify: (... c) to (... k).
        features: (b p c h w), or (b p c), best patch first.

    Returns:
        `Looks`, one at each patch.
    """
    if features.ndim == 5:
        features = reduce(features, "b p c h w -> b p c", "mean")
    weights = attention(features).weights
    step_logits = rearrange(classify(features), "b p k -> b p 1 k")
    return Looks(step_logits, torch.ones_like(step_logits[..., 0]), weights)


def add_up_patches(
    attention: AnytimeAttention, classify: Callable[[Tensor], Tensor], features: Tensor
) -> Looks:
    """Do as `weigh_patches`, and keep what the first, the first two, ... patches answer.

    Args:
        attention: weighs the patches.
        classify: (... c) to (... k), affine.
        features: (b p c h w), or (b p c), in the order in which they are looked at.

    Returns:
        `Looks`, one at each patch, with `prefix_logits`.
    """
    if features.ndim == 5:
        features = reduce(features, "b p c h w -> b p c", "mean")
    weights = attention.prefix_weights(features)
    by_patch = classify(features)
    step_logits = rearrange(by_patch, "b p k -> b p 1 k")
    return Looks(
        step_logits,
        torch.ones_like(step_logits[..., 0]),
        weights[:, -1],
        einsum(weights, by_patch, "b n p, b p k -> b n k"),
    )
