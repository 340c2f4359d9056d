"""A model into a folder or a repository, with all that it takes to build it again."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, PyTorchModelHubMixin
from safetensors.torch import save_model

from recurrent_attention.backbone import FACTORY_ARGUMENTS
from recurrent_attention.hub.config import CONFIG_NAME
from recurrent_attention.hub.weights import WEIGHTS_NAME
from recurrent_attention.whole_file import whole_file

if TYPE_CHECKING:
    from recurrent_attention.classifier import TwoStreamClassifier

CARD_NAME = "README.md"


def save_pretrained(
    model: "TwoStreamClassifier",
    save_directory: str | Path,
    *,
    config: Any = None,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    model_card_kwargs: dict[str, Any] | None = None,
    **push_to_hub_kwargs: Any,
) -> str | None:
    """Write model.safetensors, config.json and a model card into a folder.

    The configuration rebuilds the model without pretrained weights and without the folder or
    repository that a backbone came from, so that loading downloads nothing. All files are written
    beside their places first and put there at the end: if that fails, or the process is killed,
    what was saved there before is still whole. A model card that is there already stays.

    Args:
        model: is left as it is; its weights are saved in the dtype that they have.
        save_directory: is made if it is not there.
        config: another configuration, a dictionary or dataclass; default: the model's own.
        repo_id: where to push to; default: the folder's name.
        push_to_hub: push the model to the Hub as well.
        model_card_kwargs: variables of the card's template (`model_card.TEMPLATE`): `repo_id`,
            what to load it by, and `notes`, Markdown about data and accuracy.
        **push_to_hub_kwargs: arguments of `push_to_hub`.

    Returns:
        The address of the commit, if the model was pushed.

    Raises:
        ValueError: if an argument of a backbone cannot be written as JSON.
        OSError: if a file cannot be written, say on a full disk.
    """
    folder = Path(save_directory)
    config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    settings = _as_json(config or current_config(model))
    variables = {"repo_id": folder.resolve().name} | (model_card_kwargs or {})
    card = model.generate_model_card(**variables)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:  # they get their names when all are written, the weights last
        weights_path, config_path, card_path = (
            files.enter_context(whole_file(folder / name))
            for name in (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME)
        )
        config_path.write_text(settings, encoding="utf-8")
        if (folder / CARD_NAME).exists():
            card_path.write_bytes((folder / CARD_NAME).read_bytes())
        else:
            card_path.write_text(str(card), encoding="utf-8", errors="backslashreplace")
        save_model(model, str(weights_path))
        weights_path.chmod(config_path.stat().st_mode)  # safetensors hides it from other users
    if not push_to_hub:
        return None
    return model.push_to_hub(
        repo_id or folder.resolve().name,
        config=config,
        model_card_kwargs=model_card_kwargs,
        **push_to_hub_kwargs,
    )


def push_to_hub(
    model: "TwoStreamClassifier",
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    model_card_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> str:
    """Write the model into a repository on the Hub, which is made if it is not there.

    Args:
        model: as in `save_pretrained`.
        repo_id: "name", or "user/name".
        token: for the Hub; default: the one that is logged in.
        private: whether a new repository is.
        model_card_kwargs: as in `save_pretrained`.
        **kwargs: further arguments of `huggingface_hub.PyTorchModelHubMixin.push_to_hub`: `branch`,
            `create_pr`, `commit_message` and more.

    Returns:
        The address of the commit.

    Raises:
        OSError: of huggingface_hub, if the Hub does not take it.
    """
    if "/" not in repo_id:  # the card tells how to load it, and for that takes the whole name
        repo_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
    return PyTorchModelHubMixin.push_to_hub(
        model,
        repo_id,
        token=token,
        private=private,
        model_card_kwargs={"repo_id": repo_id} | (model_card_kwargs or {}),
        **kwargs,
    )


def portable_backbones(
    model: "TwoStreamClassifier", kwargs: Mapping[str, Any], local_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe both backbones so that they can be built anywhere.

    Args:
        model: that has them.
        kwargs: what `timm.create_model` got for the global one.
        local_kwargs: and for the local one.

    Returns:
        The arguments of `TwoStreamClassifier` about backbones. Of what names weights nothing is
        left, and the normalisation goes along.
    """
    look = {k: v for k, v in model.data_config.items() if k != "input_size"}
    described = []
    for backbone, given in ((model.global_backbone, kwargs), (model.local_backbone, local_kwargs)):
        name, arguments = backbone.architecture()
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


def current_config(model: "TwoStreamClassifier") -> dict[str, Any]:
    """Tell the arguments that build the model as it is now.

    Args:
        model: of which some attributes may have been set since it was built.

    Returns:
        Arguments of `TwoStreamClassifier`.
    """
    config = model._config | {
        "num_patches": model.num_patches,
        "fusion_weight": model.fusion_weight,
        "drop_rate": model.drop.p,
        "class_names": None if model.class_names is None else list(model.class_names),
    }
    if hasattr(model.attention, "num_steps"):
        config["num_steps"] = model.attention.num_steps
    return config


def _as_json(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a configuration that can be written as JSON, but got: {error}. Pass names "
            "to backbone_kwargs, such as act_layer='gelu'."
        ) from error
