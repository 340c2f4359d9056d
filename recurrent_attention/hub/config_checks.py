"""What the configuration of a stranger's model may not hold: checks of each argument."""

import math
import re
import reprlib
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from recurrent_attention._arguments import UNPRINTABLE
from recurrent_attention._errors import printable
from recurrent_attention._settings import BACKBONE_KWARGS, CHOICES, TEMPERATURES, Settings
from recurrent_attention.backbone import FACTORY_ARGUMENTS
from recurrent_attention.images.views import resampling

MOST = {  # far beyond what anyone trains, and still built and refused in seconds
    "num_classes": 1_000_000,
    "image_size": 4096,
    "patch_size": 4096,
    "num_patches": 1000,
    "hidden_size": 2**16,
    "num_steps": 1000,
    "num_layers": 100,
    "in_chans": 1000,
}
MOST_IN_KWARGS = 2**16  # of any number in the arguments of a backbone
_NUMBERS = {"fusion_weight": (-1e6, 1e6), "drop_rate": (0.0, 1.0)}
_BACKBONES = ("backbone", "local_backbone")
_KEYS = tuple(field.name for field in fields(Settings))
_MAY_BE_NULL = ("local_backbone", *BACKBONE_KWARGS, "class_names", "temperatures")
_MAY_BE_MISSING = ("local_backbone_kwargs", "temperatures")  # came later than the format
# "pruned" makes timm look for a file. The others would take a model off the meta device, on which
# a stranger's is built before anything else is known of it, or make its numbers wider.
_NO_ARGUMENTS = FACTORY_ARGUMENTS | {"pruned", "device", "dtype", "layout", "pin_memory"}
_LOOK = "pretrained_cfg_overlay"
_WORD = re.compile(r"[\w-]{1,64}", re.ASCII)  # names no file, no repository and no address
SHORT = reprlib.Repr()
SHORT.maxstring = 80


def checked_config(
    config: dict[str, Any], path: Path, given: Collection[str] = ()
) -> dict[str, Any]:
    """Check arguments of `TwoStreamClassifier` that a file holds; `read_config` says how.

    Args:
        config: the object that the file holds. The function removes what `given` names.
        path: of the file.
        given: as in `read_config`.

    Returns:
        As `read_config`.

    Raises:
        ValueError: as in `read_config`.
    """
    for name in config:
        if name not in _KEYS:
            raise ValueError(
                f"Expected {printable(path)} to hold arguments of TwoStreamClassifier only, but "
                f"got {SHORT.repr(name)}. A newer version of recurrent-attention may know it."
            )
    for name in _KEYS:
        if name in given:
            value = config.pop(name, None)
            if name in BACKBONE_KWARGS and isinstance(value, dict) and _LOOK in value:
                config[name] = {_LOOK: value[_LOOK]}
        if name in config:
            _check(config[name], name, path)
        elif name not in (*_MAY_BE_MISSING, *given):
            raise ValueError(
                f"Expected `{name}` in {printable(path)}, but it is missing. Pass {name}=... if "
                f"you know it."
            )
    names, count = config.get("class_names"), config.get("num_classes")
    if names is not None and count is not None and len(names) != count:
        raise ValueError(
            f"Expected `class_names` in {printable(path)} to hold {count} names, but got "
            f"{len(names)}."
        )
    return config


def _check(value: Any, name: str, path: Path) -> None:
    """Refuse a value of the file."""
    refuse = _refusal(value, f"`{name}` in {printable(path)}")
    if value is None and name in _MAY_BE_NULL:
        return
    if name in MOST and not _is_whole(value, 1, MOST[name]):
        hint = f" Pass {name}={value} if you mean it." if _is_whole(value, 1, math.inf) else ""
        refuse(f"be a whole number in [1, {MOST[name]}]", hint)
    if name in _NUMBERS and not _is_number(value, *_NUMBERS[name]):
        refuse("be a number in [{:g}, {:g}]".format(*_NUMBERS[name]))
    if name in CHOICES and value not in CHOICES[name]:
        refuse(f"be one of {', '.join(CHOICES[name])}")
    if name in _BACKBONES:
        if not isinstance(value, str):
            refuse("be a text")
        if not re.fullmatch(r"[\w.-]{1,128}", value, re.ASCII):  # "hf-hub:..." would be fetched
            refuse("be the plain name of a timm model", f" Pass {name}=... if you trust it.")
    if name in BACKBONE_KWARGS:
        _check_kwargs(value, name, path)
    if name == "temperatures" and not (
        isinstance(value, list)
        and 1 <= len(value) <= MOST["num_patches"] + 1
        and all(_is_number(number, *TEMPERATURES) for number in value)
    ):
        refuse("be a list of numbers in [{:g}, {:g}]".format(*TEMPERATURES))
    if name == "class_names" and not (isinstance(value, list) and all(map(_is_name, value))):
        refuse("be a list of texts without control characters", " Pass class_names=[...].")


def _check_kwargs(kwargs: Any, name: str, path: Path) -> None:
    """Let no argument through that says where weights are, or that could name a file."""
    if not isinstance(kwargs, dict):
        _refusal(kwargs, f"`{name}` in {printable(path)}")("be an object")
    for key, value in kwargs.items():
        refuse = _refusal(value, f"`{name}[{SHORT.repr(key)}]` in {printable(path)}")
        if key == _LOOK:
            _check_look(value, f"`{name}[{key!r}]", path)
        elif key in _NO_ARGUMENTS or not _WORD.fullmatch(key):
            refuse("be absent: a configuration names no weights, no files and no devices")
        elif not _is_plain(value, depth=4):
            refuse(
                f"be made of words and of numbers up to {MOST_IN_KWARGS}",
                f" Pass {name}=... if you trust it.",
            )


def _check_look(look: Any, name: str, path: Path) -> None:
    """Check how pictures are prepared: the one thing about weights that goes along with them."""
    if not isinstance(look, dict):
        _refusal(look, f"{name}` in {printable(path)}")("be an object")
    for key, value in look.items():
        refuse = _refusal(value, f"{name}[{SHORT.repr(key)}]` in {printable(path)}")
        if key in ("mean", "std"):
            low = 1e-6 if key == "std" else -1e6  # pixels are divided by it
            if not (
                isinstance(value, list)
                and 1 <= len(value) <= MOST["in_chans"]
                and all(_is_number(number, low, 1e6) for number in value)
            ):
                refuse(f"be a list of numbers in [{low:g}, 1e+06]")
        elif key == "interpolation":
            try:
                resampling(value if isinstance(value, str) else "")
            except ValueError as error:
                raise ValueError(f"{printable(error)} The file is {printable(path)}.") from None
        elif key == "crop_pct" and not _is_number(value, 0.01, 10):
            refuse("be a number in [0.01, 10]")
        elif key == "crop_mode" and value not in ("center", "squash", "border"):
            refuse("be one of center, squash, border")
        elif key == "fixed_input_size" and not isinstance(value, bool):
            refuse("be true or false")
        elif key not in ("crop_pct", "crop_mode", "fixed_input_size"):
            refuse("be absent: a configuration names no weights and no files")


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, list):
        return depth > 0 and len(value) <= 1000 and all(_is_plain(v, depth - 1) for v in value)
    if isinstance(value, dict):
        names = all(map(_WORD.fullmatch, value)) and not _NO_ARGUMENTS & value.keys()
        return names and _is_plain(list(value.values()), depth)
    if isinstance(value, str):
        return not value or bool(_WORD.fullmatch(value))
    return value is None or isinstance(value, bool) or _is_number(value, -(2.0**16), 2.0**16)


def _is_whole(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int) and _is_number(value, low, high)


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high and (isinstance(value, int) or math.isfinite(value))


def _is_name(value: Any) -> bool:
    """Return whether a terminal and a file can take it: no escape codes, no half characters."""
    return isinstance(value, str) and not UNPRINTABLE.search(value)


def _refusal(value: Any, what: str) -> Callable[..., None]:
    def refuse(wanted: str, hint: str = "") -> NoReturn:
        raise ValueError(f"Expected {what} to {wanted}, but got {SHORT.repr(value)}.{hint}")

    return refuse
