"""From a folder of pictures to a trained and measured model: what the commands do."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recurrent_attention._devices import Device, device_of
from recurrent_attention.backbone.creation import native_size
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.data.augmentation import Augment, name_of_augment
from recurrent_attention.data.boxes import write_boxes
from recurrent_attention.hub.config import as_json
from recurrent_attention.training.calibration import calibrate
from recurrent_attention.training.curves import draw_curves
from recurrent_attention.training.draws import seeded
from recurrent_attention.training.evaluation import Evaluation, evaluate
from recurrent_attention.training.features import check_keepable
from recurrent_attention.training.fitting import FitResult, fit
from recurrent_attention.training.networks import lent
from recurrent_attention.training.parts import Parts, listing_of, parts_of_folder
from recurrent_attention.training.processes import from_main, join_processes
from recurrent_attention.training.proposals import (
    FindBoxes,
    boxes_of_parts,
    fit_global_head,
    propose_boxes_for,
)
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.report import write_report
from recurrent_attention.training.run_folder import RunFolder, check_free
from recurrent_attention.training.tracking import Trackers, checked_trackers

NUM_PATCHES = 10
# Arguments of `TwoStreamClassifier` with defaults of their own: looks that add up.
LOOKS: dict[str, Any] = {"patch_weighting": "anytime", "fusion_weight": 2.0}


class Trained(NamedTuple):
    """The result of `train`.

    Attributes:
        model: holds the weights of the best epoch.
        evaluation: of the test pictures.
        fitted: the history of the training.
        folder: with `model/`, `report.html`, `result.json`, `metrics.jsonl`, `curves.png` and
            `boxes-*.json`.
    """

    model: TwoStreamClassifier
    evaluation: Evaluation
    fitted: FitResult
    folder: Path

    @property
    def report(self) -> Path:
        """The file of the page that shows how good the model is."""
        return self.folder / "report.html"


@torch.inference_mode(False)  # the weights of a model that is built in it cannot be trained
def train(
    data: str | PathLike[str] | Parts,
    *,
    out: str | PathLike[str],
    backbone: str = "convnext_tiny",
    pretrained: bool = True,
    image_size: int | None = None,
    patch_size: int | None = None,
    num_patches: int = NUM_PATCHES,
    train_patches: int | None = None,
    boxes: FindBoxes | None = None,
    recipe: Recipe | None = None,
    augment: Augment | None = None,
    crop_scale: tuple[float, float] | None = None,
    trackers: Trackers = None,
    report: bool = True,
    resume: bool = False,
    cache_dir: str | PathLike[str] | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
    **model_arguments: Any,
) -> Trained:
    """Train a classifier on a folder of pictures, without labels of parts, and measure it.

    The classifier of the global stream is trained first, on its backbone as it is, and says where
    to look. Then both streams are trained, and the epoch that is best on validation is kept. In the
    test pictures the trained model looks at boxes that it proposes itself, as in `predict`. With
    frozen backbones the classifier of the global stream is not trained again, so that all pictures
    are looked at where `predict` looks.

    Args:
        data: a folder as in `parts_of_folder`, or what that returned.
        out: a new folder for the results; with `resume` one that such a call left.
        backbone: any timm model.
        pretrained: begin with timm's pretrained weights.
        image_size: as in `TwoStreamClassifier`; with a frozen backbone the default is the size that
            it was made for.
        patch_size: as in `TwoStreamClassifier`.
        num_patches: boxes of each picture.
        train_patches: how many of them a training step sees, drawn at random; default: all.
        boxes: called with the model and the pictures of each part, returns where to look, as
            `TwoStreamDataset` takes it. Default: the classifier of the global stream is trained
            first, and the model proposes.
        recipe: default: `Recipe.fine_tuning()`; `Recipe.heads_only()` trains the heads alone, on
            features that are computed once.
        augment: as in `TwoStreamDataset`, for the training pictures.
        crop_scale: as in `TwoStreamDataset`, for the training pictures.
        trackers: as in `fit`.
        report: write the page `report.html`.
        resume: go on from the last checkpoint in `out`; if there is none, begin.
        cache_dir: keeps features of frozen backbones and proposals for other runs; None keeps them
            in `out` until the end.
        device: "auto" takes an accelerator if there is one.
        num_workers: processes that read pictures.
        progress: show bars.
        **model_arguments: further arguments of `TwoStreamClassifier`.

    Returns:
        `Trained`.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it.
        FileExistsError: if `out` is not empty, and `resume` is False.
        NotADirectoryError: if `out` is below a file.
        ValueError: if the pictures, the backbone or a number does not fit.
        TypeError: if an argument is of another type.
    """
    recipe = recipe or Recipe.fine_tuning()
    if boxes is not None and not callable(boxes):
        raise TypeError(
            "Expected `boxes` to be a function of the model and the pictures of a part, but got "
            f"{type(boxes).__name__}. For a file: lambda _, pictures: read_boxes(file, pictures)."
        )
    if recipe.freeze:
        check_keepable(augment, crop_scale)
        if image_size is None:  # frozen, a network sees another size than its own badly
            image_size = native_size(backbone)
    processes = join_processes(device)
    parts = data if isinstance(data, Parts) else parts_of_folder(data, seed=recipe.seed)
    # What can be refused is refused before minutes of work, and before anything is written.
    parts.check_none_empty()
    from_main(lambda: check_free(Path(out), resume))
    asked = checked_trackers(trackers, Path(out))
    device_of(device)  # refuses one that is not there
    names = parts.train.class_names
    settings = LOOKS | {"class_names": names, **model_arguments}
    with seeded(recipe.seed):
        model = TwoStreamClassifier(
            backbone,
            len(names),
            pretrained=pretrained,
            image_size=image_size,
            patch_size=patch_size,
            num_patches=num_patches,
            **settings,
        )
    as_json(model.config)  # refuses what the saved model could not be built from
    work: dict[str, Any] = {"device": device, "num_workers": num_workers, "progress": progress}
    changed: dict[str, Any] = {"train": True, "num_patches": train_patches}
    changed |= {"augment": augment, "crop_scale": crop_scale}
    check_views(model, parts.train, changed)
    every = parts.by_name()
    run = RunFolder(Path(out), resume=resume)
    own_cache = run.path / "features"
    if cache_dir is not None or recipe.freeze:
        work["cache_dir"] = own_cache if cache_dir is None else Path(cache_dir)
    # A part has a file of its own: pictures of two parts can have the same relative name.
    files = {name: run.path / f"boxes-{name}.json" for name in every}
    if not run.checkpoints.steps():  # a run that ended before one is begun anew, boxes and all
        from_main(lambda: _remove(files.values()))
    first = dict(every)
    keep_head = boxes is None and recipe.freeze
    if keep_head:
        # Trained on, the classifier would propose other boxes. Kept, with its backbone, `predict`
        # looks where the training looked.
        fit_global_head(model, every["train"], **work)
        boxes = partial(propose_boxes_for, **work)
    elif boxes is None:  # where to look in the test pictures, the trained model says
        del first["test"]
    found_boxes = boxes_of_parts(lambda: model, first, files, boxes, **work)
    views = {
        name: TwoStreamDataset.for_model(
            model, part, found_boxes[name], **(changed if name == "train" else {})
        )
        for name, part in first.items()
    }
    head = [model.global_head, model.global_convs] if keep_head else []
    kept = [weight for module in head if module is not None for weight in module.parameters()]
    with lent(kept, "requires_grad", False):
        fitted = fit(
            model,
            views["train"],
            views["validation"],
            recipe=recipe,
            run_folder=run,
            resume=resume,
            trackers=asked,
            **work,
        )
    if "test" not in views:
        # Trained, it proposes other boxes than its first head did. It is measured as it answers.
        for name in ("validation", "test"):
            found_boxes[name] = propose_boxes_for(model, every[name], **work)
            views[name] = TwoStreamDataset.for_model(model, every[name], found_boxes[name])
        if processes.is_main_process:
            write_boxes(files["test"], found_boxes["test"])
    calibrate(model, views["validation"], frozen=recipe.freeze, **work)
    run.save_model(model)
    found = evaluate(model, views["test"], frozen=recipe.freeze, **work)
    run.write_card(model, _notes(parts, found))
    looks = {} if found.answers is None else found.answers.by_looks()
    # `evaluate` finds by it the folder of which a part was set aside.
    listing = {"pictures": listing_of(*every.values(), by_name=True)}
    run.write_json("result.json", {"data": parts.found, **listing, **found.numbers(), **looks})

    def draw() -> None:
        shutil.rmtree(own_cache, ignore_errors=True)
        curves = run.path / "curves.png"
        draw_curves(fitted.history, curves, best_epoch=fitted.best_epoch, held_out="validation")
        if not report:
            return
        counts = {name: f"{len(part)} pictures" for name, part in every.items()}
        seen = {"augment": name_of_augment(augment), "crop_scale": crop_scale}
        write_report(
            run.path / "report.html",
            model,
            views["test"],
            found,
            title=f"Report on {run.path.name}",
            fitted=fitted,
            settings={"data": {"found": parts.found, **counts}, "recipe": asdict(recipe) | seen},
        )

    from_main(draw)
    return Trained(model, found, fitted, run.path)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _notes(parts: Parts, found: Evaluation) -> str:
    """Say on the model card what the model learned from, and how good it is."""
    both, alone = 100 * found.fused_top1, 100 * found.global_top1
    error = (both * (100 - both) / found.num_images) ** 0.5
    return (
        f"Trained on {len(parts.train)} pictures ({parts.found}); {len(parts.validation)} others "
        f"chose the epoch. On {len(parts.test)} test pictures both streams are right in "
        f"{both:.1f} ± {error:.1f} % (one standard error), the global stream alone in "
        f"{alone:.1f} %."
    )


def check_views(model: TwoStreamClassifier, pictures: Pictures, changed: dict[str, Any]) -> None:
    """Refuse arguments that do not fit the training pictures; no box is needed yet."""
    boxes = {name: [[0, 0, 1, 1]] * model.num_patches for name in pictures.names[:1]}
    TwoStreamDataset.for_model(model, pictures.subset([0]), boxes, **changed)
