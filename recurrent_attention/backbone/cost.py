"""What a training step costs, counted on the meta device: nothing is computed or kept."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from recurrent_attention.heads import TwoStreamFeatures
from recurrent_attention.loss import TwoStreamLoss
from recurrent_attention.network import TwoStreamNetwork

FLOAT_COPIES = 4  # of a trained weight: itself, its gradient, and the two averages of AdamW
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class StepCost(NamedTuple):
    """What `cost_of_step` counted.

    Attributes:
        global_macs: multiply-adds of one image in the global backbone's forward pass.
        local_macs: of one patch in the local backbone's.
        state_bytes: weights and buffers, gradients and the two averages of AdamW.
        kept_bytes: what autograd keeps of a whole batch for the backward pass.
    """

    global_macs: int
    local_macs: int
    state_bytes: int
    kept_bytes: int


def cost_of_step(model: TwoStreamNetwork, *, batch_size: int, num_patches: int) -> StepCost:
    """Count what one training step takes, by running its forward pass on meta tensors.

    Multiply-adds are those of convolutions and matrix products, the two of attention among them;
    norms, activations, pooling, softmax and resampling are not counted. A tensor that is kept
    counts once, however many layers keep it, and the model's own weights not again. Attention
    counts as torch's fused kernels compute it, which keep no attention matrix, wherever the CPU
    would take one. The head counts as unrolled cells, which run on every device but a CPU; there,
    torch's own LSTM keeps about 0.33 MB more a picture and layer (512 features, ten steps). Not
    counted is what is gone before the forward pass ends or comes after it: workspaces, and
    gradients on their way.

    Args:
        model: on the meta device and in training mode.
        batch_size: b, images in a step.
        num_patches: p, patches of each.

    Returns:
        `StepCost`, in the dtype of the model.
    """
    kept: dict[int, Any] = {}  # on meta no storage has an address; held, so that no id comes twice
    state = [*model.parameters(), *model.buffers()]  # shared ones once, unsaved ones too
    own = {tensor.untyped_storage()._cdata for tensor in state}

    def keep(tensor: Tensor) -> None:  # no backward pass will want it; kept whole, it would leak
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage

    channels = model.global_backbone.in_chans
    sides = model.image_size, model.patch_size
    with (
        torch.enable_grad(),
        torch.device("meta"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing),
        _FusedAttention(),
    ):
        images = torch.empty(batch_size, channels, sides[0], sides[0])
        patches = torch.empty(batch_size * num_patches, channels, sides[1], sides[1])
        with _counter() as global_count:
            global_map = model.global_backbone(images)
        with _counter() as local_count:
            local_maps = model.local_backbone(patches)
        local_maps = rearrange(local_maps, "(b p) c h w -> b p c h w", p=num_patches)
        output = model.classify(TwoStreamFeatures(global_map, local_maps))
        TwoStreamLoss()(output, torch.zeros(batch_size, dtype=torch.long))
    return StepCost(
        global_count.get_total_flops() // 2 // len(images),
        local_count.get_total_flops() // 2 // len(patches),
        sum(tensor.nbytes * (FLOAT_COPIES if tensor.requires_grad else 1) for tensor in state),
        sum(storage.nbytes() for storage in kept.values()),
    )


class _FusedAttention(TorchFunctionMode):
    """Attention by the kernel that torch takes on a CPU; on meta it would take plain products."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fused = None
        if func is F.scaled_dot_product_attention:
            fused = _fused_attention(*args, **kwargs)
        return func(*args, **kwargs) if fused is None else fused


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Call the kernel; None where torch would not."""
    if (
        not query.ndim == key.ndim == value.ndim == 4
        or query.shape[3] != value.shape[3]
        or dropout_p != 0
        or enable_gqa
        or (attn_mask is not None and (is_causal or attn_mask.requires_grad))
    ):
        return None
    mask = None if attn_mask is None else attn_mask.to(query.dtype)  # as torch does with booleans
    output: Tensor
    output, _ = _FUSED(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)
    return output


def _fused_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count both products of attention from the shapes (b heads n c)."""
    batch, heads, queries, channels = query
    return int(2 * batch * heads * queries * key[2] * (channels + value[3]))


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={_FUSED: _fused_flops})
