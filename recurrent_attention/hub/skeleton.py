"""A model without weights: built first, to see whether a file fits it, and filled then."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from recurrent_attention._errors import ArgumentError, first_line, printable
from recurrent_attention.backbone.probe import tensors_in
from recurrent_attention.heads import classifier
from recurrent_attention.hub.weights import CLASSIFIERS
from recurrent_attention.network import TwoStreamNetwork

Model = TypeVar("Model", bound=TwoStreamNetwork)
# What a model may have beside what a file holds of it: VGG's classifiers, twice 119 million numbers
# that are taken out again, are the most in timm.
MORE_NUMBERS = 500_000_000
MORE_TENSORS = 2000


def build_skeleton(
    cls: type[Model], settings: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> Model:
    """Build a model on the meta device, where it takes no memory, and the random state stays.

    Args:
        cls: the class.
        settings: its arguments.
        weights: that it shall get; a model that is much larger is not built to its end.
        path: of the file with the settings.

    Returns:
        The model, without numbers.

    Raises:
        ValueError: if the settings do not make a model, or one that is much larger.
    """
    with _not_larger_than(weights), torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _build(cls, settings, path)


def fill(
    skeleton: Model,
    weights: Mapping[str, Tensor],
    cls: type[Model],
    settings: Mapping[str, Any],
    path: Path,
) -> Model:
    """Give a model on the meta device its weights, or build it again where it needs more than that.

    The first saves an initialisation that would be thrown away, and the classifiers that timm
    builds and `FeatureBackbone` takes out again.

    Args:
        skeleton: of `build_skeleton`.
        weights: by name, of the shapes that it wants; what is missing is initialised.
        cls: as for the skeleton.
        settings: as for the skeleton.
        path: as for the skeleton.

    Returns:
        A model on the CPU that shares no memory with `weights`. The random state stays.

    Raises:
        ValueError: if it computes huge tables when it is built.
    """
    wanted = skeleton.state_dict()
    computed = list(_computed_tensors(skeleton))
    tied = len(set(map(id, skeleton.state_dict(keep_vars=True).values()))) < len(wanted)
    if not computed and not tied and wanted.keys() <= weights.keys():
        # In the layout that the skeleton has, which need not be that of the file.
        copies = {
            name: torch.empty_like(tensor, device="cpu").copy_(weights[name])
            for name, tensor in wanted.items()
        }
        skeleton.load_state_dict(copies, assign=True)
        return skeleton
    if sum(tensor.numel() for tensor in computed) > MORE_NUMBERS:
        raise ValueError(
            f"Expected {printable(path)} to describe a model that can be built, but got one that "
            f"needs tables of more than {MORE_NUMBERS} numbers for its size of images."
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = _build(cls, settings, path)
    model.load_state_dict(weights, strict=False)
    return model


def new_classifiers(model: TwoStreamNetwork) -> dict[str, Tensor]:
    """Initialise both classifiers as those of a new model, from the random state.

    Args:
        model: of which the sizes count; it stays as it is.

    Returns:
        Their weights by name.
    """
    weights: dict[str, Tensor] = {}
    for name in CLASSIFIERS:
        old = getattr(model, name)
        with torch.device("cpu"):
            new = classifier(old.in_features, old.out_features)
        weights |= {f"{name}.{part}": value for part, value in new.state_dict().items()}
    return weights


def _build(cls: type[Model], settings: Mapping[str, Any], path: Path) -> Model:
    try:
        return cls(**settings)
    except Exception as error:  # timm raises whatever strange arguments lead to
        if isinstance(error, ArgumentError):
            raise
        names = (settings.get("backbone"), settings.get("local_backbone"))
        if isinstance(error, OSError) and any(":" in name for name in names if name):
            raise  # the caller's own backbone could not be had; a file's have plain names
        raise ValueError(
            f"Expected {printable(path)} to describe a model that can be built, but got: "
            f"{first_line(error)}."
        ) from error


class _TooLargeError(Exception):
    """Not a ValueError, which would be taken for one about the size of images."""


@contextmanager
def _not_larger_than(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop building a model that is much larger than what was saved of it.

    On the meta device it takes no memory yet, but a depth of 65,536 still takes hours.
    """
    most_tensors = 4 * len(weights) + MORE_TENSORS
    most_numbers = 4 * sum(tensor.numel() for tensor in weights.values()) + MORE_NUMBERS
    builder, tensors, numbers = threading.get_ident(), 0, 0

    def count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is None or threading.get_ident() != builder:  # the hook sees every thread
            return
        tensors, numbers = tensors + 1, numbers + parameter.numel()
        if tensors > most_tensors or numbers > most_numbers:
            raise _TooLargeError("one that is much larger than its file of weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _computed_tensors(model: nn.Module) -> Iterator[Tensor]:
    """List what a model computes when it is built: tensors that no state dict holds."""
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_modules"):
                yield from (tensor for tensor in tensors_in(value) if id(tensor) not in kept)
