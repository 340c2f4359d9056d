"""Weights out of a file that anyone may have written, compared with what a model wants."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_regular_file
from recurrent_attention.hub.names import canonical_names, unwrapped
from recurrent_attention.hub.pickles import check_pickles

CLASSIFIERS = ("global_head", "local_head")
WEIGHTS_NAME = "model.safetensors"
_CLASSIFIER_WEIGHTS = tuple(f"{name}.{part}" for name in CLASSIFIERS for part in ("weight", "bias"))
# timm's first; "average" is that of this package's own checkpoints
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "average")
_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "weights", "net")
_UNSAFE = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")  # in torch's answer
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Fitting(NamedTuple):
    """What of a file goes into a model.

    Attributes:
        weights: names in the model's order to the file's tensors.
        other_classes: how many classes the file has, where its classifiers were left out; else 0.
    """

    weights: dict[str, Tensor]
    other_classes: int


def read_weights(path: Path, *, use_ema: bool = True) -> dict[str, Tensor]:
    """Read a state dict; nothing that a file says is run.

    Args:
        path: of a `.safetensors` file, whose tensors stay in the file until they are used, or of a
            file of `torch.save`: a state dict, or a checkpoint that holds one under
            `state_dict_ema`, `model_ema`, `state_dict`, `model`, `model_state_dict` and the like.
        use_ema: whether averaged weights count.

    Returns:
        Tensors by the names of `TwoStreamClassifier`, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, is damaged, or holds anything that could run code.
    """
    check_regular_file(path, "a checkpoint")
    with path.open("rb"):  # what forbids to read it says so itself
        pass
    found = _mapped(path) if path.suffix == ".safetensors" else _unpickled(path, use_ema)
    weights = canonical_names(found)
    if len(weights) < len(found):
        raise ValueError(
            f"Expected {printable(path)} to name each weight once, but two names mean the same."
        )
    return weights


def fitting_weights(
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    path: Path,
    *,
    strict: bool = True,
    other_classes: bool = False,
) -> Fitting:
    """Pick the weights that a model wants, and refuse a file that does not fit it.

    Args:
        weights: of `read_weights`.
        wanted: the model's state dict; only names, shapes and kinds count.
        path: what to call the file.
        strict: refuse missing and additional names; else those are left alone.
        other_classes: leave out the classifiers if the file's have another number of classes.

    Returns:
        `Fitting`.

    Raises:
        ValueError: about the first name that is missing, or of another shape or kind, or else about
            one that the model does not have.
    """
    weights = unwrapped(weights, wanted)
    classes = _other_classes(weights, wanted) if other_classes else 0
    fitting = {}
    for name, tensor in wanted.items():
        if classes and name in _CLASSIFIER_WEIGHTS:
            continue
        if name in weights:
            _check_one(name, weights[name], tensor, path)
            fitting[name] = weights[name]
        elif strict:
            missing = sum(other not in weights for other in wanted)
            raise ValueError(
                f"Expected {printable(path)} to hold `{name}`, but it is missing"
                f"{_and_more(missing)}. Build the model as the saved one was built."
                f"{_what_it_holds(weights, wanted)}"
            )
    extra = [name for name in weights if name not in wanted]
    if strict and extra:
        raise ValueError(
            f"Expected {printable(path)} to hold only what the model has, but got "
            f"`{printable(extra[0])[:200]}`{_and_more(len(extra))}. Build the model as the saved "
            "one was built."
        )
    return Fitting(fitting, classes)


def _other_classes(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    """Count the classes of a file whose classifiers are as wanted but for that number; else 0."""
    if not all(name in weights for name in _CLASSIFIER_WEIGHTS):
        return 0
    pairs = [(weights[name].shape, wanted[name].shape) for name in _CLASSIFIER_WEIGHTS]
    if any(len(found) != len(right) or found[1:] != right[1:] for found, right in pairs):
        return 0
    counts = {found[0] for found, _ in pairs}
    return 0 if len(counts) > 1 or counts == {pairs[0][1][0]} else counts.pop()


def _check_one(name: str, found: Tensor, wanted: Tensor, path: Path) -> None:
    if found.shape != wanted.shape:
        raise ValueError(
            f"Expected `{name}` in {printable(path)} to have shape {tuple(wanted.shape)}, but got "
            f"{tuple(found.shape)}. Build the model as the saved one was built."
        )
    floats = (found.dtype in _FLOATS, wanted.dtype.is_floating_point)
    if floats == (False, True) or (not floats[1] and found.dtype != wanted.dtype):
        kind = "of 16 to 64 bits, floating point" if floats[1] else str(wanted.dtype)
        raise ValueError(
            f"Expected `{name}` in {printable(path)} to be {kind}, but got {found.dtype}."
        )


def _and_more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _what_it_holds(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say what a file holds that has little of what is wanted."""
    if not weights or sum(name in wanted for name in weights) > len(weights) // 2:
        return ""
    first = printable(next(name for name in weights if name not in wanted))[:200]
    return f" The file holds {len(weights)} other entries, such as `{first}`."


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aliases = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        sentence = f"Expected {printable(path)} to be a safetensors file, but got: "
        raise ValueError(f"{sentence}{first_line(error)}.") from error
    # Of weights that share memory only one is written, and the others' names are here.
    for name, kept in aliases.items():
        if kept in weights:
            weights.setdefault(name, weights[kept])
    return weights


def _unpickled(path: Path, use_ema: bool) -> dict[str, Tensor]:
    check_pickles(path)
    try:
        # As in timm, whose training script keeps its arguments in the checkpoint.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader raise almost anything
        unsafe = _UNSAFE.search(str(error))
        if unsafe:
            raise ValueError(
                f"Expected {printable(path)} to hold weights alone, but it asks for "
                f"{printable(unsafe[1])[:200]}, which could run code, and was not run. Save the "
                "state dict by itself."
            ) from None
        raise ValueError(
            f"Expected {printable(path)} to be a checkpoint of torch.save, but got: "
            f"{_reason(error)}."
        ) from error
    for key in (*(_EMA_KEYS if use_ema else ()), *_KEYS):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict):
        raise ValueError(
            f"Expected {printable(path)} to hold a state dict, but got {type(found).__name__}. "
            "Save model.state_dict()."
        )
    for name, value in found.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise ValueError(
                f"Expected the state dict in {printable(path)} to map names to dense tensors, but "
                f"got {type(value).__name__} under {str(name)[:200]!r}. Save model.state_dict()."
            )
    return {name: value.detach() for name, value in found.items()}


def _reason(error: Exception) -> str:
    """Take the sentence out of torch's answer, which advises to run what is in the file."""
    text = str(error).strip().partition(" In PyTorch 2.6, we changed")[0]
    if text.startswith("Weights only load failed"):
        found = re.search(r"WeightsUnpickler error: *(\S.*)", text)
        text = found[1] if found else ""
    if not text or text.isdigit():  # the key of a KeyError, of an opcode that there is not
        return "data that are no weights"
    return first_line(text, 200)


def _is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_quantized)
    )
