"""config.json of a saved model: written, and read."""

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from recurrent_attention._errors import printable
from recurrent_attention._settings import Settings
from recurrent_attention.attention import RecurrentRefinedAttention
from recurrent_attention.backbone import FACTORY_ARGUMENTS
from recurrent_attention.hub.config_checks import SHORT, checked_config
from recurrent_attention.network import TwoStreamNetwork

CONFIG_NAME = "config.json"
MOST_BYTES = 2**26  # of the file: a million class names of 64 letters


def config_of(network: TwoStreamNetwork) -> dict[str, Any]:
    """Return the settings that build a network as it is now, anywhere.

    Args:
        network: of which some attributes may have been set since it was built.
    """
    settings = {field.name: getattr(network.settings, field.name) for field in fields(Settings)}
    names = network.class_names
    current: dict[str, Any] = {
        "num_patches": network.num_patches,
        "fusion_weight": network.fusion_weight,
        "drop_rate": network.drop.p,
        "class_names": None if names is None else list(names),
        "temperatures": None if network.temperatures is None else list(network.temperatures),
    }
    if isinstance(network.attention, RecurrentRefinedAttention):
        current["num_steps"] = network.attention.num_steps
    config = settings | _portable_backbones(network) | current
    if config["temperatures"] is None:  # then older versions can read the file, too
        del config["temperatures"]
    return config


def _portable_backbones(network: TwoStreamNetwork) -> dict[str, Any]:
    """Return the arguments about backbones with which both can be built anywhere."""
    described = []
    for backbone, given in (
        (network.global_backbone, network.settings.arguments_of("global")),
        (network.local_backbone, network.settings.arguments_of("local")),
    ):
        name, arguments = backbone.architecture()
        look = {k: v for k, v in backbone.data_config.items() if k != "input_size"}
        overlay = arguments.get("pretrained_cfg_overlay", {}) | look
        own = {k: v for k, v in given.items() if k not in FACTORY_ARGUMENTS}
        described.append((name, arguments | own | {"pretrained_cfg_overlay": overlay}))
    (name, settings), (local_name, local_settings) = described
    return {
        "backbone": name,
        "local_backbone": local_name if local_name != name else None,
        "backbone_kwargs": settings,
        "local_backbone_kwargs": local_settings if local_settings != settings else None,
    }


def as_json(config: Mapping[str, Any]) -> str:
    """Return the text of config.json.

    Raises:
        ValueError: if an argument of a backbone cannot be written as JSON.
    """
    try:
        return json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a configuration that can be written as JSON, but got: {error}. Pass names "
            "to backbone_kwargs, such as act_layer='gelu'."
        ) from error


def read_config(path: Path, given: Collection[str] = ()) -> dict[str, Any]:
    """Read the arguments of `TwoStreamClassifier` from a file that anyone may have written.

    What is returned names no file, no repository and no address, and asks for nothing huge. What
    the caller gives instead may: of the file's it is not looked at.

    Args:
        path: of the file.
        given: names of arguments that the caller has and the file need not.

    Returns:
        The other arguments by name, without `pretrained`; of the arguments of a backbone also
        where the caller gives some, how it wants its pictures (`pretrained_cfg_overlay`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a configuration, in one sentence.
    """
    return checked_config(_read_object(path), path, given)


def _read_object(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"Expected {printable(path)} to have at most {MOST_BYTES} bytes, but got {size}. That "
            "is no configuration."
        )
    try:
        config = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected {printable(path)} to hold JSON, but got: {printable(error)}."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"Expected {printable(path)} to hold a JSON object, but got {SHORT.repr(config)}. "
            "save_pretrained writes one."
        )
    return config


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON number")
