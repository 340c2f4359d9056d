"""A model out of a folder, a repository or a checkpoint, none of which is trusted."""

import inspect
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file, kind_of
from recurrent_attention.hub.config import CONFIG_NAME, read_config
from recurrent_attention.hub.skeleton import build_skeleton, fill, new_classifiers
from recurrent_attention.hub.weights import (
    CLASSIFIERS,
    WEIGHTS_NAME,
    fitting_weights,
    read_weights,
)

if TYPE_CHECKING:
    from recurrent_attention.classifier import TwoStreamClassifier

Model = TypeVar("Model", bound="TwoStreamClassifier")


def from_pretrained(
    cls: type[Model],
    pretrained_model_name_or_path: str | os.PathLike[str],
    *,
    force_download: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    map_location: str | torch.device = "cpu",
    strict: bool = True,
    **overrides: Any,
) -> Model:
    """Load a model that `save_pretrained` or `push_to_hub` wrote; in eval mode.

    The folder may be a stranger's: nothing in it is run, no other file is read, no host but the Hub
    is asked (and that only for a repository), and nothing huge is built. ImageNet weights are never
    loaded. The random state stays as it is, unless classifiers are new: those are drawn from it.

    Args:
        cls: the class.
        pretrained_model_name_or_path: a folder with config.json and model.safetensors, or the name
            of a repository on the Hub.
        force_download: download again what is in the cache.
        token: for the Hub; True takes the one that is logged in.
        cache_dir: where downloads are kept.
        local_files_only: take a repository from the cache only.
        revision: a branch, tag or commit of the repository.
        map_location: the device.
        strict: refuse a file with missing or additional weights. With False the missing ones are
            initialised as in a new model.
        **overrides: arguments of the class that replace the saved ones. With another number of
            classes (`num_classes`, `class_names`) both classifiers, and nothing else, are
            initialised as in a new model, with a warning. `backbone_kwargs` keeps the saved
            mean, std and interpolation unless it has a `pretrained_cfg_overlay`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such folder or repository, or one of the files is missing.
        ValueError: if one of the files is damaged, hostile, or does not fit the other or the
            overrides.
        TypeError: if an override is no argument of the class.
        OSError: of huggingface_hub, if a download fails.

    Example:
        >>> import tempfile
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", 5, image_size=64, patch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     TwoStreamClassifier.from_pretrained(folder, num_patches=4).num_classes
        5
    """
    arguments = inspect.signature(cls).parameters
    any_name = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    for name in overrides:
        if name not in arguments and not any_name:  # a subclass may hand on what it gets
            raise TypeError(f"Expected an argument of {cls.__name__}, but got `{name}`.")
    if overrides.pop("pretrained", False):
        raise ValueError("Expected `pretrained` to be False: all weights come from the folder.")
    device = torch.device(map_location)
    find = partial(
        _find,
        pretrained_model_name_or_path,
        force_download=force_download,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        revision=revision,
    )
    config_path, weights_path = find(CONFIG_NAME), find(WEIGHTS_NAME)
    if overrides.get("class_names") is not None:
        overrides.setdefault("num_classes", len(overrides["class_names"]))
    settings = _merged(read_config(config_path, overrides), overrides)
    weights = read_weights(weights_path)
    with torch.inference_mode(False), torch.no_grad():
        skeleton = build_skeleton(cls, settings, weights, config_path)
        fitting, other_classes = fitting_weights(
            weights,
            skeleton.state_dict(),
            weights_path,
            strict=strict,
            other_classes="num_classes" in overrides,
        )
        if other_classes:
            fitting |= new_classifiers(skeleton)
        model = fill(skeleton, fitting, cls, settings, config_path).to(device).eval()
    if other_classes:
        warnings.warn(_news(model, other_classes, weights_path), stacklevel=2)
    return model


def load_checkpoint(
    model: "TwoStreamClassifier", path: str | os.PathLike[str], *, use_ema: bool = True
) -> None:
    """Load weights of this model, or of the authors' network, from one file, as timm does.

    Files of `torch.save` are read with `weights_only=True`: a pickle that asks for anything that
    could run code is refused, and the code does not run. If anything is wrong, the model stays as
    it was. So do its modes, and the random state unless classifiers are new: those are drawn from
    it.

    Args:
        model: with the classes, sizes and backbones that it shall have. If the file has another
            number of classes, both classifiers, and nothing else, are initialised as in a new
            model, with a warning.
        path: of a `.safetensors` file, or of a file of `torch.save` (`.pth`, `.pt`, `.bin`, ...)
            that holds a state dict, by itself or under `state_dict_ema`, `model_ema`, `state_dict`,
            `model`, `model_state_dict` and the like: timm's, Lightning's, torch's averaged models.
            Names may carry `module.`, `_orig_mod.` or the name of the attribute that the model was,
            or be the authors' names (for `backbone="vgg19", global_head="conv"`).
        use_ema: prefer the averaged weights of a checkpoint that holds both.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, hostile, no checkpoint, or does not fit the model.
        TypeError: if `model` is not a `TwoStreamClassifier`.

    Example:
        >>> import tempfile
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", 5, image_size=64, patch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": model.state_dict()}, f"{folder}/last.pth")
        ...     load_checkpoint(model, f"{folder}/last.pth")
    """
    if not isinstance(model, PyTorchModelHubMixin) or not hasattr(model, CLASSIFIERS[0]):
        raise TypeError(
            f"Expected `model` to be a TwoStreamClassifier, but got {type(model).__name__}. "
            "Pass what it wraps: model.module, model._orig_mod."
        )
    path = Path(path)
    weights = read_weights(path, use_ema=use_ema)
    fitting, other_classes = fitting_weights(weights, model.state_dict(), path, other_classes=True)
    if other_classes:
        fitting |= new_classifiers(model)
    model.load_state_dict(fitting)
    if other_classes:
        warnings.warn(_news(model, other_classes, path), stacklevel=2)


def _find(source: str | os.PathLike[str], name: str, **download: Any) -> Path:
    """Find a file in a folder, or get it from a repository of that name."""
    if source and Path(source).is_dir():
        path = Path(source, name)
        if kind_of(path) in ("nothing", "a link to nothing"):
            raise FileNotFoundError(
                f"Expected {name} in the folder {printable(source)}, but there is none. "
                "save_pretrained writes it."
            )
        check_regular_file(path, name)
        return path
    if source and Path(source).exists():
        raise ValueError(
            f"Expected a folder at {printable(source)}, but it is {kind_of(source)}. Load "
            "weights alone with recurrent_attention.load_checkpoint(model, path)."
        )
    try:
        if not isinstance(source, str):
            raise HFValidationError("a path")
        return Path(hf_hub_download(source, name, **download))
    except GatedRepoError:  # it is there, and the Hub says what to do
        raise
    except HFValidationError as error:
        reason = "there is no such folder, and no repository can be called that"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        reason, cause = "there is neither, or it is private. Pass `token` if it is", error
    except LocalEntryNotFoundError as error:
        reason = f"there is no such folder, and {name} is neither in the cache nor to be had now"
        cause = error
    except EntryNotFoundError as error:
        reason, cause = f"that repository has no {name}", error
    raise FileNotFoundError(
        f"Expected a folder or a repository called {os.fspath(source)!r}, but {reason}."
    ) from cause


def _merged(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put the caller's arguments over those of the file."""
    settings = config | dict(overrides)
    for name in ("backbone_kwargs", "local_backbone_kwargs"):
        if name in overrides and name in config:
            settings[name] = config[name] | (overrides[name] or {})
    names = settings.get("class_names")
    if "class_names" not in overrides and names and len(names) != settings["num_classes"]:
        settings["class_names"] = None  # those of other classes
    return settings


def _news(model: "TwoStreamClassifier", classes: int, path: Path) -> str:
    return (
        f"The classifiers of both streams are new: {model.num_classes} classes instead of the "
        f"{classes} in {printable(path)}. Train them before you predict."
    )
