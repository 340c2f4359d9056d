"""What is trained and evaluated: networks around a classifier, which stays as it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from recurrent_attention._errors import first_line
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.heads import TwoStreamFeatures, TwoStreamOutput
from recurrent_attention.training.draws import own_random_state


class Streams(nn.Module):
    """A classifier as a network of its own, so that what wraps it leaves the classifier alone."""

    def __init__(self, model: TwoStreamClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, patches: Tensor) -> Any:
        """Classify images (b c h w) and patches (b p c h w), in the dtype of the weights."""
        return self.model(*in_dtype_of(self.model, images, patches))


class Heads(nn.Module):
    """The heads of a classifier as a network of their own, for frozen features."""

    def __init__(self, model: TwoStreamClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, global_features: Tensor, local_features: Tensor) -> Any:
        """Classify features (b c) or (b c h w), and (b p c)."""
        features = in_dtype_of(self.model.local_head, global_features, local_features)
        return self.model.classify(TwoStreamFeatures(*features))


def in_dtype_of(module: nn.Module, *tensors: Tensor) -> list[Tensor]:
    """Bring views or features to the dtype of a network's weights."""
    dtype = next(module.parameters()).dtype
    return [tensor.to(dtype) for tensor in tensors]


@contextmanager
def own_training(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Train with a random state and gradients of our own, in whatever mode the caller is.

    What the caller had comes back afterwards.
    """
    with (
        own_random_state(),  # the CPU's draws order, patches, crops; a GPU's only dropout
        torch.inference_mode(False),
        torch.enable_grad(),
        lent(parameters, "grad", None),
    ):
        yield


@contextmanager
def lent(parameters: Iterable[nn.Parameter], attribute: str, value: Any) -> Iterator[None]:
    """Set an attribute of parameters to one value meanwhile; each gets its own back."""
    parameters = list(parameters)
    before = [getattr(parameter, attribute) for parameter in parameters]
    try:
        for parameter in parameters:
            setattr(parameter, attribute, value)
        yield
    finally:
        for parameter, own in zip(parameters, before, strict=True):
            setattr(parameter, attribute, own)


@contextmanager
def checkpointed(model: TwoStreamClassifier, enable: bool) -> Iterator[None]:
    """Switch gradient checkpointing on in both backbones, if asked to, and back afterwards.

    With several processes and batch norms it is refused: the statistics of all processes are
    shared in the forward pass only (`shared_batch_norm`).
    """
    backbones = [model.global_backbone, model.local_backbone] if enable else []
    modules = [module for backbone in backbones for module in backbone.modules()]
    count = PartialState().num_processes
    if count > 1 and any(isinstance(module, _BatchNorm) for module in modules):
        raise ValueError(
            f"Expected grad_checkpointing=False for batch norms that {count} processes share, "
            "which would compute again with the pictures of one alone, but got True. Take one "
            "process, or a backbone without batch norms."
        )
    before = [(m, m.grad_checkpointing) for m in modules if hasattr(m, "grad_checkpointing")]
    try:
        for backbone in backbones:
            backbone.set_grad_checkpointing(True)
        yield
    finally:
        for module, was in before:  # timm keeps it in a model, or in each of its stages
            module.grad_checkpointing = was


@contextmanager
def counted_once(model: TwoStreamClassifier, recomputes: bool) -> Iterator[None]:
    """Undo what a backward pass does to buffers, such as running averages.

    With gradient checkpointing it repeats the forward pass, so batch norms would count each batch
    twice.

    Args:
        model: whose buffers to put back.
        recomputes: False does nothing.
    """
    buffers = list(model.buffers()) if recomputes else []
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def train_pass(
    network: nn.Module, first: Tensor, second: Tensor, num_processes: int
) -> TwoStreamOutput:
    """Run `Streams` or `Heads`, as Accelerate prepared it, in training mode on a batch.

    `first` are images or global features, `second` patches or local ones, of this process; the
    batch is shared by all processes. A batch of one picture, where a layer normalises over the
    batch, is a ValueError.
    """
    try:
        with shared_batch_norm():
            output: TwoStreamOutput = network(first, second)
            # Nothing in training reads these, and with many classes they are large.
            output = output._replace(prefix_logits=None)
    except ValueError as error:
        if len(first) * num_processes > 1:
            raise
        raise ValueError(
            "Expected batches of several pictures to train on, but got one picture, which the "
            f"model does not take in training mode: {first_line(error)}. Raise `batch_size`, or "
            "add pictures."
        ) from error
    return output


def shared_batch_norm() -> AbstractContextManager[Any]:
    """Let every batch norm in training mode see the pictures of all processes, meanwhile.

    Two processes with 16 pictures each then train as one with 32 does. Torch's own
    `SyncBatchNorm` does it on GPUs only, and its converter drops the activation that timm's batch
    norms hold; here the function is replaced that all of them call. Nothing changes where there is
    one process.
    """
    return _SharedBatchNorm() if PartialState().num_processes > 1 else nullcontext()


class _SharedBatchNorm(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        replaced = _batch_norm if function is F.batch_norm else function
        return replaced(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    # Without any of these four it is a weight that is standardised, the same in all processes.
    alone = running_mean is None and running_var is None and weight is None and bias is None
    if not training or alone:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    others = [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1] + [1] * (input.ndim - 2)
    # Every process has as many pictures: an epoch's last, smaller batch is left out or filled up.
    count = input.numel() // input.shape[1] * PartialState().num_processes
    mean = sum_over_processes(values.sum(others)) / count
    centered = values - mean.view(shape)
    variance = sum_over_processes((centered**2).sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normed = centered * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normed = normed * weight.view(shape)
    if bias is not None:
        normed = normed + bias.view(shape)
    return cast(Tensor, normed.to(input.dtype))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes; gradients are summed as well."""
    total: Tensor = _Sum.apply(tensor)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
