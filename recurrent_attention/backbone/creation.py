"""Building a timm model by its name, for a size of images."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Self

import timm
import timm.models
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from recurrent_attention._errors import ArgumentError, first_line, printable
from recurrent_attention._files import check_regular_file

# What timm's factories take themselves (which weights, from where, what to do with them); all else
# is an argument of the architecture.
FACTORY_ARGUMENTS = frozenset(
    name
    for factory in (timm.create_model, timm.models.build_model_with_cfg)
    for name in inspect.signature(factory).parameters
)


class SizeError(ArgumentError):
    """A size of images that a timm model does not take.

    Attributes:
        reason: what timm says, "" if nothing.
    """

    reason: str = ""

    @classmethod
    def of(cls, name: str, size: int, reason: str, argument: str = "image_size") -> Self:
        """Say of which model, which size, and what the caller calls that."""
        got = f"{size}: {reason}" if reason else f"{size}."
        error = cls(f"Expected `{argument}` to suit {name!r}, but got {got}")
        error.reason = reason
        return error


def native_size(name: str) -> int | None:
    """Return the side of pictures that a timm model was made for, as timm describes it.

    Args:
        name: as for `FeatureBackbone`.

    Returns:
        The side in pixels, the longer one if there are two; None of a model in a folder or on the
        Hub, and of one that timm does not describe.

    Raises:
        ValueError: if timm does not know the model.
    """
    _check_name(name)
    config = None if ":" in name else timm.models.get_pretrained_cfg(name)
    return max(config.input_size[1:]) if config else None


def create_model(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    """Build a timm model for `image_size` if its architecture takes one, else for any size.

    Args:
        name: as for `FeatureBackbone`.
        image_size: side of the images in pixels.
        **kwargs: of `timm.create_model`. A `checkpoint_path` is read for its features alone, as is
            the file of a `pretrained_cfg_overlay`.

    Returns:
        The model, without its classifier as far as timm takes that out.

    Raises:
        ValueError: if timm does not know the model, `image_size` does not suit it, or a file lacks
            some of its weights.
        TypeError: if an argument is of another type, or not for backbones.
    """
    _check_name(name)
    if "img_size" in kwargs:
        raise TypeError(
            "Expected `image_size` as in all of this package, but got timm's `img_size`. Pass "
            f"image_size={kwargs['img_size']!r:.200}."
        )
    for argument in ("features_only", "num_classes"):
        if argument in kwargs:
            raise TypeError(
                f"Expected no {argument!r}: the backbone is the model without its classifier, up "
                "to the map that this pools. Leave it out."
            )
    file = kwargs.pop("checkpoint_path", None)
    if file:
        check_regular_file(file, "weights")
        kwargs["pretrained"] = False
    with blaming_size(name, image_size):
        if file:
            model = _create(name, image_size, **kwargs)
            _load_features(model, name, file)
        elif overlaid := _overlaid_file(**kwargs):
            model = _create_from(overlaid, name, image_size, **kwargs)
        else:
            model = _create(name, image_size, **kwargs)
    return model


def _create_from(
    file: str | os.PathLike[str], name: str, image_size: int, **kwargs: Any
) -> nn.Module:
    """Build a model that timm fills from a file, and refuse a file that does not fill it.

    Weights that stay as they were drawn differ between two models. The names in the file prove
    nothing: timm renames and adapts what it reads.
    """
    check_regular_file(file, "weights")
    try:
        model = _create(name, image_size, **kwargs)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        found = str(error).splitlines()[-1].strip().rstrip(".")
        raise _not_of(name, file, f"got: {found}") from error
    with torch.random.fork_rng(devices=[]):
        again = _create(name, image_size, **kwargs)
    pairs = zip(model.named_parameters(), again.parameters(), strict=True)
    drawn = [key for (key, one), two in pairs if not (one.is_meta or torch.equal(one, two))]
    if drawn:
        raise _not_of(name, file, f"{len(drawn)} are missing, such as {drawn[0]}")
    return model


def _not_of(name: str, file: str | os.PathLike[str], found: str) -> ArgumentError:
    return ArgumentError(
        f"Expected {printable(file)} to hold the weights of {name!r}, but {found}. Is it another "
        "model's?"
    )


def _overlaid_file(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    **_: Any,
) -> str | os.PathLike[str] | None:
    """Return the file that timm loads instead of the published weights, if there is one."""
    given = (pretrained_cfg_overlay, pretrained_cfg)
    files = [config.get("file") for config in given if isinstance(config, dict)]
    return next(filter(None, files), None) if pretrained else None


def _load_features(model: nn.Module, name: str, file: str | os.PathLike[str]) -> None:
    """Load a model without its classifier from a file, where timm wants that to fit as well."""
    keys = timm.models.load_checkpoint(model, os.fspath(file), strict=False, weights_only=True)
    if keys.missing_keys:
        found = f"{len(keys.missing_keys)} are missing, such as {keys.missing_keys[0]}"
        raise _not_of(name, file, found)


def _create(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    model: nn.Module
    try:
        model = _create_sized(name, image_size, **kwargs)
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"Expected to download the weights of {name!r}, but the Hugging Face Hub cannot be "
            "reached, and they are not in its cache. Give them as a file: --weights FILE, or "
            "backbone_kwargs={'pretrained_cfg_overlay': {'file': FILE}}; or begin without: "
            "--weights none, or pretrained=False."
        ) from error
    return model


def _create_sized(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    model: nn.Module
    try:
        model = timm.create_model(name, num_classes=0, img_size=image_size, **kwargs)
    except TypeError as error:  # raised by the signature, before anything is initialised
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, num_classes=0, **kwargs)
    return model


@contextmanager
def blaming_size(name: str, image_size: int, *more_errors: type[Exception]) -> Iterator[None]:
    """Turn timm's failures about a size into one sentence.

    Args:
        name: of the model.
        image_size: that it was asked for.
        *more_errors: that are failures of this kind as well.

    Raises:
        SizeError: where timm raised whatever it raises.
    """
    errors: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, IndexError, ValueError)
    try:
        yield
    except errors + more_errors as error:
        # A download failed (some of those are ValueErrors), or a file is not of this model.
        if isinstance(error, OSError | ArgumentError):
            raise
        reason = f"{first_line(error)}." if str(error).strip() else ""
        raise SizeError.of(name, image_size, reason) from error


def _check_name(name: str) -> None:
    """Refuse a name that timm does not know, and name near ones."""
    if not isinstance(name, str):
        raise TypeError(
            f"Expected `name` to be the name of a timm model, but got {type(name).__name__}."
        )
    if ":" in name:  # "hf-hub:" and "local-dir:" are looked up by timm
        return
    known, cutoff = timm.list_models(), 0.6  # difflib's own default
    if timm.is_model(name):
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:  # the tag is unknown; there are few, so any of them is near
            known, cutoff = timm.list_models(name.partition(".")[0], include_tags=True), 0.0
        else:
            return
    near = [repr(match) for match in get_close_matches(name, known, n=3, cutoff=cutoff)]
    hint = f"Did you mean {', '.join(near)}?" if near else "timm.list_models() names them all."
    raise ArgumentError(f"Expected `name` to be a timm model, but got {name!r}. {hint}")
