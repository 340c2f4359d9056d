"""What goes between the parts of the two-stream classifier, and what comes out of it."""

from typing import NamedTuple

from torch import Tensor


class TwoStreamOutput(NamedTuple):
    """What `TwoStreamClassifier` answers; logits are never softmaxed.

    Attributes:
        logits: (b k) global_logits + fusion_weight * local_logits.
        global_logits: (b k) of the whole image: the baseline.
        local_logits: (b k) of the patches, averaged over p, or weighted by `patch_weights`.
        step_logits: (b p t k) what each look at each patch would answer by itself.
        step_weights: (b p t) the temporal attention; sums to 1 over t.
        patch_weights: (b p) the learned attention over the patches, sums to 1 over p (t is 1 then);
            None with `patch_weighting="equal"`.
        boxes: (b p 4) xyxy in pixels of the images, where the model proposed its own patches, best
            first; None where patches were given.
    """

    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor
    step_logits: Tensor
    step_weights: Tensor
    patch_weights: Tensor | None = None
    boxes: Tensor | None = None


class TwoStreamFeatures(NamedTuple):
    """What the two backbones saw, before any head.

    Attributes:
        global_features: (b c h w) a map, or (b c) its mean over h w.
        local_features: (b p c h w) maps, or (b p c) their means over h w.
    """

    global_features: Tensor
    local_features: Tensor
