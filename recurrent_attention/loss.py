"""The paper's loss over both streams."""

import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from recurrent_attention.outputs import TwoStreamOutput

PATCH_SHARE = 0.5  # of weighted patches by themselves; without it the local stream lost 2.6 points


class TwoStreamLoss(nn.Module):
    """Cross-entropy of the global logits plus lambda times that of each patch's own logits.

        loss = CE(global_logits, targets) + local_weight * mean over p of CE(patch p, targets)

    A patch's logits are its `step_logits` weighted by its `step_weights`. With one patch this is
    the paper's loss; with several, each is classified by itself, as if it had been the one that
    the paper draws at random, while evaluation averages their logits. On frozen features that left
    the local stream 2 to 4 points better than the cross-entropy of the averaged logits, which lets
    the patches of a picture share the work (docs/results.md). Where the weights of
    the patches are learned (`TwoStreamOutput.patch_weights`), the second term is

        CE(local_logits, targets) + 1/2 * mean over p of CE(patch p, targets)

    The fused logits take no part, so each stream learns as if it were alone: the global stream of a
    two-stream model is at the same time a fairly trained global-only baseline.

    Args:
        local_weight: lambda, at least 0. 1 in the authors' code; the paper does not state it.
        label_smoothing: of both cross-entropies, in [0, 1). 0 in the authors' code.

    Raises:
        ValueError: if one of the two is outside its range.

    Example:
        >>> import torch
        >>> from recurrent_attention.outputs import TwoStreamOutput
        >>> good, bad = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> steps, weights = bad.view(1, 1, 1, 2), torch.ones(1, 1, 1)  # one patch, one step
        >>> output = TwoStreamOutput(good + bad, good, bad, steps, weights)
        >>> round(TwoStreamLoss(local_weight=0.5)(output, torch.tensor([0])).item(), 4)
        2.5101

    References:
        Shroff et al., arXiv:2005.10979, section "Loss".
    """

    def __init__(self, local_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if local_weight < 0:
            raise ValueError(f"Expected `local_weight` to be at least 0, but got {local_weight}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Expected `label_smoothing` to be in [0, 1), but got {label_smoothing}."
            )
        self.local_weight = local_weight
        self.label_smoothing = label_smoothing

    def forward(self, output: TwoStreamOutput, targets: Tensor) -> Tensor:
        """Compute the loss, averaged over the batch.

        Args:
            output: of `TwoStreamClassifier`.
            targets: (b) class indices in [0, k).

        Returns:
            A scalar.
        """
        smoothing = self.label_smoothing
        loss = F.cross_entropy(output.global_logits, targets, label_smoothing=smoothing)
        weights, step_logits = output.step_weights, output.step_logits
        patch_logits = einsum(weights, step_logits, "b p t, b p t k -> b p k")
        local = F.cross_entropy(
            rearrange(patch_logits, "b p k -> (b p) k"),
            repeat(targets, "b -> (b p)", p=patch_logits.shape[1]),
            label_smoothing=smoothing,
        )
        if output.patch_weights is not None:
            together = F.cross_entropy(output.local_logits, targets, label_smoothing=smoothing)
            local = together + PATCH_SHARE * local
        return loss + self.local_weight * local
