"""Several ways to build a classifier, trained on the same pictures and compared: `ablate`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurrent_attention._arguments import whole_number
from recurrent_attention._devices import Device
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data import Pictures
from recurrent_attention.training.ablation_folder import (
    check_arguments,
    claim,
    is_done,
    model_arguments,
    results_of,
    settings_of,
    write,
)
from recurrent_attention.training.ablation_rows import rows_of
from recurrent_attention.training.ablation_table import Row, as_markdown, write_table
from recurrent_attention.training.averaged_views import Averaged, answers_over_views
from recurrent_attention.training.draws import seeded
from recurrent_attention.training.own_pictures import NUM_PATCHES, train
from recurrent_attention.training.parts import Parts, parts_of_folder
from recurrent_attention.training.processes import from_main
from recurrent_attention.training.proposals import boxes_of_parts
from recurrent_attention.training.recipe import Recipe
from recurrent_attention.training.variants import RUN_FILES, VARIANTS, Variant, ordered

DEFAULT = ("anytime", "paper", "scattered", "two-networks", "ten-crop", "mirrored", "two-scales",
           "larger")  # fmt: skip


class Ablation(NamedTuple):
    """The result of `ablate`.

    Attributes:
        rows: one a variant, and "global" first.
        folder: with `table.csv`, `table.md`, `ablation.png` and a folder for each run.
    """

    rows: tuple[Row, ...]
    folder: Path

    def __str__(self) -> str:
        return as_markdown(self.rows)


@torch.inference_mode(False)  # the weights of a model that is built in it cannot be trained
def ablate(
    data: str | PathLike[str] | Parts,
    *,
    out: str | PathLike[str],
    variants: Sequence[str] = DEFAULT,
    seeds: Sequence[int] = (0, 1, 2),
    backbone: str = "convnext_tiny",
    image_size: int = 224,
    patch_size: int = 224,
    num_patches: int = NUM_PATCHES,
    recipe: Recipe | None = None,
    device: Device = "auto",
    num_workers: int = 0,
    progress: bool = True,
    **arguments: Any,
) -> Ablation:
    """Train each variant with each seed, and compare them in one table and one figure.

    The pictures of each part and the boxes are the same for all runs: those of the first seed.
    What was done is kept: called again with the same `out`, it goes on, also within a run.

    Args:
        data: as in `train`.
        out: folder for the results, new or of a call before.
        variants: names of `training.variants.VARIANTS`.
        seeds: of draws, new layers and the order of the data.
        backbone: as in `train`, and so are the others that are not named here.
        image_size: of the whole pictures.
        patch_size: of the patches.
        num_patches: proposed boxes of each picture.
        recipe: default: `Recipe.fine_tuning()`; its seed is replaced.
        device: as in `train`.
        num_workers: as in `train`.
        progress: show bars.
        **arguments: further ones of `train`, but `boxes`, `report`, `resume`, `cache_dir` and
            `patch_weighting`, which variants set for themselves.

    Returns:
        `Ablation`.

    Raises:
        ValueError: if there is no such variant, or no seed, or one is named twice, or an argument
            does not fit, or `out` is of other pictures, arguments or another recipe.
        FileNotFoundError: if `out` has runs, and no file that says what they were made with.
        TypeError: if `variants` or `seeds` are no lists.
        OSError: if the folder cannot be written.
    """
    if not isinstance(seeds, Iterable) or isinstance(variants, str):
        raise TypeError(
            f"Expected `variants` and `seeds` to be lists, such as variants=['anytime'], "
            f"seeds=[0, 1, 2], but got {variants!r:.200} and {seeds!r:.200}."
        )
    variants, seeds = list(variants), list(seeds)
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants or not seeds:
        raise ValueError(
            f"Expected `variants` to name some of {', '.join(VARIANTS)}, and at least one seed, "
            f"but got {list(variants)} and {list(seeds)}."
        )
    seeds = [whole_number(seed, "seeds", least=-(2**63)) for seed in seeds]
    for name, given in (("variants", variants), ("seeds", seeds)):
        if len(set(given)) < len(given):
            raise ValueError(
                f"Expected `{name}` to name each once, but got {list(given)}. A run that counts "
                "twice makes the spread too small."
            )
    recipe = recipe or Recipe.fine_tuning()
    folder = Path(out)
    parts = data if isinstance(data, Parts) else parts_of_folder(data, seed=seeds[0])
    parts.check_none_empty()
    settings: dict[str, Any] = {"backbone": backbone, "image_size": image_size}
    settings |= {"patch_size": patch_size, "num_patches": num_patches} | arguments
    chosen = [VARIANTS[name] for name in variants]
    # What can be refused is refused before minutes of work, and before anything is written.
    check_arguments(chosen, parts, recipe, settings)
    claim(folder, parts, recipe, settings)
    work: dict[str, Any] = {"device": device, "num_workers": num_workers, "progress": progress}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    boxes = _propose(parts, folder, seeds[0], settings, work)
    for seed in seeds:
        own = replace(recipe, seed=seed)
        for variant in chosen:
            run = variant.run_in(folder, seed)
            if not is_done(run, *RUN_FILES):
                _run(variant, parts, boxes, run, own, settings, work)
            averaged = variant.averaged
            if averaged is not None and not is_done(run, f"{averaged}.json"):
                _average_views(parts, run, averaged, work)
            results[variant.name].append(results_of(variant, run))
    rows = rows_of(chosen, results, settings, len(parts.train.class_names))
    from_main(lambda: write_table(folder, rows, seeds))
    return Ablation(rows, folder)


def _propose(
    parts: Parts, folder: Path, seed: int, settings: dict[str, Any], work: dict[str, Any]
) -> dict[int, Mapping[str, Tensor]]:
    """Propose boxes for each part, once for all runs; return them by id of the part.

    They come from the classifier of a global stream, trained on the training pictures alone.
    """

    def untrained() -> TwoStreamClassifier:
        with seeded(seed):
            return TwoStreamClassifier(**model_arguments(settings, parts.train.class_names))

    every = parts.by_name()
    files = {name: folder / "boxes" / f"{name}.json" for name in every}
    boxes = boxes_of_parts(untrained, every, files, cache_dir=folder / "features", **work)
    return {id(part): boxes[name] for name, part in every.items()}


def _run(
    variant: Variant,
    parts: Parts,
    boxes: Mapping[int, Mapping[str, Tensor]],
    run: Path,
    recipe: Recipe,
    settings: dict[str, Any],
    work: dict[str, Any],
) -> None:
    def find(_: TwoStreamClassifier, pictures: Pictures) -> dict[str, Tensor]:
        return ordered(boxes[id(pictures)], pictures, variant.order)

    trained = train(
        parts,
        out=run,
        boxes=find,
        recipe=recipe,
        report=False,
        resume=True,
        cache_dir=run.parents[1] / "features",
        **settings_of(variant, settings),
        **work,
    )
    answers = trained.evaluation.answers
    assert answers is not None
    names = ("global", "local", "fused")
    best = {name: answers.classes[:, at, 0].tolist() for at, name in enumerate(names)}
    write(run / "answers.json", {"labels": answers.labels.tolist(), **best})


def _average_views(parts: Parts, run: Path, averaged: Averaged, work: dict[str, Any]) -> None:
    model = TwoStreamClassifier.from_pretrained(run / "model")
    shares = answers_over_views(model, parts.test, averaged, **work)
    write(run / f"{averaged}.json", {averaged: shares.argmax(1).tolist()})
