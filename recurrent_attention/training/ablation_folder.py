"""The folder of an ablation: what all its runs share, and what each of them found."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from recurrent_attention._errors import printable
from recurrent_attention._files import make_folder, whole_file
from recurrent_attention._settings import Settings
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.augmentation import name_of_augment
from recurrent_attention.training.checkpoints import check_identity
from recurrent_attention.training.features import check_keepable
from recurrent_attention.training.own_pictures import LOOKS, check_views, train
from recurrent_attention.training.parts import Parts, listing_of
from recurrent_attention.training.processes import from_main, join_processes
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.variants import VARIANTS, Variant

NAME = "ablation.json"
# Arguments of `train` about the views of training pictures, and all that are not of the model.
OF_VIEWS = ("train_patches", "augment", "crop_scale")
OF_TRAINING = (*OF_VIEWS, "trackers")
_NEEDED = {
    "result.json": {"global_top1", "local_top1", "fused_top1"},
    "answers.json": {"labels", "global", "local", "fused"},
}
# Arguments of `train` that an ablation sets for each run.
_OWN = ("boxes", "report", "resume", "cache_dir", "patch_weighting")


def model_arguments(
    settings: Mapping[str, Any], class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return what `TwoStreamClassifier` gets of the arguments of `train`, with their defaults."""
    given = {name: value for name, value in settings.items() if name not in OF_TRAINING}
    assert class_names is not None
    named = {"num_classes": len(class_names), "class_names": class_names}
    return {"pretrained": True} | LOOKS | named | given


def check_arguments(
    variants: Sequence[Variant], parts: Parts, recipe: Recipe, settings: Mapping[str, Any]
) -> None:
    """Refuse what one of the variants could not be built or trained with, before any work."""
    for name in _OWN:
        if name in settings:
            raise ValueError(
                f"Expected no `{name}`, which the variants of an ablation set for themselves, but "
                f"got {settings[name]!r:.200}. Leave it out, or call `train`."
            )
    if recipe.freeze:
        check_keepable(settings.get("augment"), settings.get("crop_scale"))
    for variant in variants:
        own = settings_of(variant, settings)
        built = model_arguments(own, parts.train.class_names) | {"pretrained": False}
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = TwoStreamClassifier(**built)
        shown: dict[str, Any] = {k: own[k] for k in ("augment", "crop_scale") if k in own}
        shown |= {"train": True, "num_patches": own.get("train_patches")}
        check_views(model, parts.train, shown)


def settings_of(variant: Variant, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `train` for a variant, of those that all of them share."""
    own = {**settings, **variant.settings}
    own["image_size"] = round(variant.wider * settings["image_size"])
    if own["num_patches"] == 1:
        own["train_patches"] = 1
    return own


def claim(folder: Path, parts: Parts, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Note what the runs of a folder share; refuse a folder whose runs share something else.

    A default counts as given. A folder in which nothing was done yet may be claimed anew.
    """
    shared = {name: value for name, value in settings.items() if name != "trackers"}
    if "augment" in shared:
        shared["augment"] = name_of_augment(shared["augment"])
    identity = {
        "pictures": {name: listing_of(part) for name, part in parts.by_name().items()},
        "arguments": _defaults() | shared,
        "recipe": asdict(replace(recipe, seed=0)),  # each run has its own
    }
    now = json.loads(json.dumps(identity, default=str))  # tuples become lists, as in the file
    file = folder / NAME

    def compare() -> None:
        make_folder(folder)
        runs = any(run.is_dir() for name in VARIANTS for run in (folder / name).glob("seed-*"))
        if not runs and not (folder / "boxes").is_dir():
            return
        if file.is_file():
            before = _read(file)
            before["arguments"] = _defaults() | before.get("arguments", {})
            check_identity(before, now, file, more_epochs=False)
        elif runs:
            raise FileNotFoundError(
                f"Expected {NAME} in {printable(folder)}, which says what its runs were made with, "
                "but found none. Take a new folder."
            )

    from_main(compare)
    write(file, now)


def _defaults() -> dict[str, Any]:
    """Return the defaults of all arguments that an ablation passes on, as the file has them."""
    of_train = inspect.signature(train).parameters
    found = {name: of_train[name].default for name in (*OF_VIEWS, "pretrained")}
    found["augment"] = name_of_augment(found["augment"])
    named = ("num_classes", "class_names", "temperatures", "patch_weighting")
    of_model = {field.name: field.default for field in fields(Settings) if field.name not in named}
    return of_model | {"fusion_weight": LOOKS["fusion_weight"]} | found


def is_done(run: Path, *files: str) -> bool:
    """Whether files of a run are there, whole, and hold what is read of them."""
    for file in files:
        try:
            found = _read(run / file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False
        if not _NEEDED.get(file, {Path(file).stem}) <= found.keys():
            return False
    return True


def results_of(variant: Variant, run: Path) -> dict[str, Any]:
    """Read what a run found, and as "right" which test pictures its answer is right for (n)."""
    found: dict[str, Any] = {}
    for file in variant.files:
        found |= _read(run / file)
    found["right"] = torch.tensor(found[variant.reads]) == torch.tensor(found["labels"])
    return found


def write(file: Path, found: dict[str, Any]) -> None:
    """Write a file that all processes read next."""
    if join_processes().is_main_process:
        with whole_file(file) as beside:
            beside.write_text(json.dumps(found), encoding="utf-8")
    join_processes().wait_for_everyone()


def _read(file: Path) -> dict[str, Any]:
    """Read a file of this package, refuse another with its name."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {printable(file)} to be JSON, but got: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"Expected {printable(file)} to hold an object, but got {type(found).__name__}."
        )
    return found
