"""A model out of a folder, a repository or a checkpoint, none of which is trusted."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file, kind_of
from recurrent_attention._settings import BACKBONE_KWARGS
from recurrent_attention.hub.skeleton import new_classifiers
from recurrent_attention.hub.weights import fitting_weights, read_weights
from recurrent_attention.network import TwoStreamNetwork


def load_checkpoint(
    model: TwoStreamNetwork, path: str | os.PathLike[str], *, use_ema: bool = True
) -> None:
    """Load weights of this model, or of the authors' network, from one file, as timm does.

    Files of `torch.save` are read with `weights_only=True`: a pickle that asks for anything that
    could run code is refused, and the code does not run. If anything is wrong, the model stays as
    it was. Its modes never change, and the random state only if new classifiers are drawn from it.

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
        >>> import tempfile, torch
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", 5, image_size=64, patch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": model.state_dict()}, f"{folder}/last.pth")
        ...     load_checkpoint(model, f"{folder}/last.pth")
    """
    if not isinstance(model, TwoStreamNetwork):
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
        warnings.warn(news_of_classifiers(model, other_classes, path), stacklevel=2)


def find_file(source: str | os.PathLike[str], name: str, **download: Any) -> Path:
    """Find a file in a folder, or get it from a repository of that name."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"Expected the name of a folder or of a repository, but got {type(source).__name__}."
        )
    if source and Path(source).is_dir():
        path = Path(source, name)
        if kind_of(path) in ("nothing", "a link to nothing"):
            raise FileNotFoundError(
                f"Expected {name} in the folder {printable(source)}, but there is none. "
                + (
                    f"Did you mean {printable(Path(source, 'model'))}?"
                    if Path(source, "model", name).is_file()
                    else "save_pretrained writes it."
                )
            )
        check_regular_file(path, name)
        return path
    if source and Path(source).exists():
        raise ValueError(
            f"Expected a folder at {printable(source)}, but it is {kind_of(source)}. "
            + (
                "Give the folder of the model; `predict` alone takes ONNX files."
                if Path(source).suffix == ".onnx"
                else "Load weights alone with recurrent_attention.load_checkpoint(model, path)."
            )
        )
    try:
        if not isinstance(source, str) or source.endswith(".onnx"):
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


def merged_settings(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put the caller's arguments over those of the file."""
    settings = config | dict(overrides)
    for name in BACKBONE_KWARGS:
        if name in overrides and name in config:
            settings[name] = config[name] | (overrides[name] or {})
    names = settings.get("class_names")
    if "class_names" not in overrides and names and len(names) != settings["num_classes"]:
        settings["class_names"] = None  # those of other classes
    return settings


def news_of_classifiers(model: TwoStreamNetwork, classes: int, path: Path) -> str:
    """Return the sentence that warns of new classifiers."""
    return (
        f"The classifiers of both streams are new: {model.num_classes} classes instead of the "
        f"{classes} in {printable(path)}. Train them before you predict."
    )
