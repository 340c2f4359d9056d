"""The paper's loss over both streams."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from recurrent_attention.heads import TwoStreamOutput, weigh_steps

IGNORED = -100  # as in torch's cross_entropy
PATCH_SHARE = 0.5  # of weighted patches by themselves; without it the local stream lost 2.6 points


class TwoStreamLoss(nn.Module):
    """Add the cross-entropy of the global logits and lambda times that of each patch's logits.

        loss = CE(global_logits, targets) + local_weight * mean over p of CE(patch p, targets)

    A patch's logits are its `step_logits` weighted by its `step_weights`. With one patch this is
    the paper's loss; with several, each is classified by itself, as if it had been the one that the
    paper draws at random, while evaluation averages their logits. On frozen features that, with
    twice the learning rate, left the local stream 2 to 3 points better than the cross-entropy of
    the averaged logits, which lets the patches of a picture share the work (docs/lab/trials.md).
    Where the weights of the patches are learned (`TwoStreamOutput.patch_weights`), `local_weight`
    multiplies

        CE(local_logits, targets) + 1/2 * mean over p of CE(patch p, targets)

    and where the looks add up (`TwoStreamOutput.local_prefix_logits`), its first part is the mean
    over the answers after 1, 2, ... p patches.

    The fused logits take no part, so each stream learns as if it were alone: the global stream of a
    two-stream model is at the same time a fairly trained global-only baseline.

    Args:
        local_weight: lambda, at least 0. 1 in the authors' code; the paper does not state it.
        label_smoothing: of both cross-entropies, in [0, 1). 0 in the authors' code.
        weight: (k) of the classes, at least 0, as in `torch.nn.CrossEntropyLoss`, in every
            cross-entropy; a buffer, which moves with the module. Default: all alike.

    Raises:
        ValueError: if one of the numbers is outside its range.

    Example:
        >>> import torch
        >>> from recurrent_attention import TwoStreamOutput
        >>> good, bad = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> steps, weights = bad.view(1, 1, 1, 2), torch.ones(1, 1, 1)  # one patch, one step
        >>> output = TwoStreamOutput(good + bad, good, bad, steps, weights)
        >>> round(TwoStreamLoss(local_weight=0.5)(output, torch.tensor([0])).item(), 4)
        2.5101

    References:
        Shroff et al., arXiv:2005.10979, section "Loss".
    """

    weight: Tensor | None

    def __init__(
        self,
        local_weight: float = 1.0,
        label_smoothing: float = 0.0,
        *,
        weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if local_weight < 0:
            raise ValueError(f"Expected `local_weight` to be at least 0, but got {local_weight}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Expected `label_smoothing` to be in [0, 1), but got {label_smoothing}."
            )
        if weight is not None:
            weight = torch.as_tensor(weight, dtype=torch.float32)
            if weight.ndim != 1 or not bool((weight >= 0).all()):
                raise ValueError(
                    "Expected `weight` to hold a number of at least 0 for each class, but got "
                    f"{weight.tolist()}."
                )
        self.local_weight = local_weight
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, output: TwoStreamOutput, targets: Tensor) -> Tensor:
        """Compute the loss, averaged over the batch.

        Args:
            output: of `TwoStreamClassifier`.
            targets: (b) class indices in [0, k), or (b k) probabilities of the classes, as mixup
                and cutmix make them. Pictures of index -100 do not count.

        Returns:
            A scalar.

        Raises:
            ValueError: if `targets` has another shape or no such class, or `weight` is of other
                classes.
            TypeError: if `output` is not the whole output, or `targets` are integers of other than
                64 bits (bytes are taken, too).
        """
        if not isinstance(output, TwoStreamOutput):
            raise TypeError(
                f"Expected `output` to be a TwoStreamOutput, but got {type(output).__name__}. Pass "
                "all of what the model returns: loss(model(images, patches), targets)."
            )
        batch, classes = output.global_logits.shape
        soft = targets.is_floating_point()
        if tuple(targets.shape) != ((batch, classes) if soft else (batch,)):
            raise ValueError(
                f"Expected `targets` to be class indices of shape ({batch},), or probabilities of "
                f"shape ({batch}, {classes}), but got {targets.dtype} of shape "
                f"{tuple(targets.shape)}."
            )
        if not soft and targets.dtype not in (torch.long, torch.uint8):
            raise TypeError(
                f"Expected `targets` to be integers of 64 bits, but got {targets.dtype}. Convert "
                "them: targets.long()."
            )
        targets = targets if soft else targets.long()
        if targets.device.type == "cpu" and not soft and not torch.compiler.is_compiling():
            _check_classes(targets, classes)
        if self.weight is not None and len(self.weight) != classes:
            raise ValueError(
                f"Expected `weight` to hold a number for each of the {classes} classes, but got "
                f"{len(self.weight)}."
            )
        patch_logits = weigh_steps(output.step_weights, output.step_logits)
        patches = patch_logits.shape[1]
        if soft:
            of_patches = repeat(targets, "b k -> (b p) k", p=patches)
        else:
            of_patches = repeat(targets, "b -> (b p)", p=patches)
        local = self._entropy(rearrange(patch_logits, "b p k -> (b p) k"), of_patches)
        if output.patch_weights is not None:
            together = self._entropy(output.local_logits, targets)
            if output.local_prefix_logits is not None:
                by_looks = rearrange(output.local_prefix_logits, "b p k -> (b p) k")
                together = self._entropy(by_looks, of_patches)
            local = together + PATCH_SHARE * local
        return self._entropy(output.global_logits, targets) + self.local_weight * local

    def _entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(logits)
        targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
        return F.cross_entropy(logits, targets, weight=weight, label_smoothing=self.label_smoothing)


def _check_classes(targets: Tensor, classes: int) -> None:
    """Refuse indices of no class; on a GPU that would wait for it, and torch stops there."""
    wrong = targets[((targets < 0) & (targets != IGNORED)) | (targets >= classes)]
    if len(wrong):
        raise ValueError(
            f"Expected `targets` to be class indices in [0, {classes}), but got {int(wrong[0])}."
        )
