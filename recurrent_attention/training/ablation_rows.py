"""What the runs of an ablation found, as rows of a table: accuracy, leads and costs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from recurrent_attention._settings import BACKBONE_KWARGS, Settings
from recurrent_attention.backbone.cost import StepCost, cost_of_step
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.training.ablation_table import Row, Stopped, lead_of
from recurrent_attention.training.averaged_views import VIEW_SETS
from recurrent_attention.training.variants import Variant


def rows_of(
    variants: Sequence[Variant],
    results: Mapping[str, list[dict[str, Any]]],
    settings: Mapping[str, Any],
    num_classes: int,
) -> tuple[Row, ...]:
    """Put together what the runs of each variant found.

    Args:
        variants: the first is what the others are compared with.
        results: of each variant by name, one a seed: `result.json`, and as "right" which of the n
            test pictures its answer is right for (n).
        settings: arguments of `train` that all of them share.
        num_classes: k.

    Returns:
        A row for each variant, below that of the first one's global stream.
    """
    known = {
        name: settings[name]
        for name in ("backbone", "patch_size", "local_backbone", "in_chans", *BACKBONE_KWARGS)
        if name in settings
    }

    @cache
    def counted(image_size: int) -> tuple[int, StepCost]:
        given = Settings(num_classes=num_classes, image_size=image_size, **known)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = TwoStreamNetwork(given)
        return model.proposal_size, cost_of_step(model.train(), batch_size=2, num_patches=1)

    rows: list[Row] = []
    rights = [torch.stack([run["right"] for run in results[v.name]]) for v in variants]
    for variant, right in zip(variants, rights, strict=True):
        runs = results[variant.name]
        alone = tuple(100 * run["global_top1"] for run in runs)
        first = not rows
        whole, proposal, look = _gmacs(variant, settings["image_size"], counted)
        if first:
            rows.append(_global_row(whole, runs, right))
        answer = tuple((100 * right.double().mean(1)).tolist())
        lead = None if first else lead_of(rights[0], right)
        if variant.reads != "fused":
            cost = whole * (
                1 if variant.averaged is None else VIEW_SETS[variant.averaged].per_picture
            )
            rows.append(Row(variant.name, variant.what, cost, alone, (), answer, lead=lead))
            continue
        looks = 1 if "num_patches" in variant.settings else settings["num_patches"]
        costs = [whole, *(whole + proposal + n * look for n in range(1, looks + 1))]
        of_local = tuple(100 * run["local_top1"] for run in runs)
        row = Row(variant.name, variant.what, costs[-1], alone, of_local, answer, lead=lead)
        if "fused_top1_after" in runs[0]:
            row = row._replace(
                after=_means_after(runs, costs), stopped=_means_stopped(runs, whole, proposal, look)
            )
        rows.append(row)
    return tuple(rows)


def _global_row(gmacs: float, runs: Sequence[dict[str, Any]], right: Tensor) -> Row:
    """Return the row of the first variant's global stream, the baseline of all."""
    alone = tuple(100 * run["global_top1"] for run in runs)
    hits = [torch.tensor(run["global"]) == torch.tensor(run["labels"]) for run in runs]
    lead = lead_of(right, torch.stack(hits))
    return Row("global", "the whole picture alone", gmacs, alone, (), alone, lead=lead)


def _means_after(
    runs: Sequence[dict[str, Any]], costs: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    tops = zip(*(run["fused_top1_after"] for run in runs), strict=True)
    return tuple(zip(costs, [100 * statistics.fmean(values) for values in tops], strict=True))


def _means_stopped(
    runs: Sequence[dict[str, Any]], whole: float, proposal: float, look: float
) -> tuple[Stopped, ...]:
    return tuple(
        Stopped(
            ones[0]["confidence"],
            statistics.fmean(one["mean_looks"] for one in ones),
            statistics.fmean(
                whole + one["looked_into"] * proposal + one["mean_looks"] * look for one in ones
            ),
            100 * statistics.fmean(one["top1"] for one in ones),
        )
        for ones in zip(*(run["stopping"] for run in runs), strict=True)
    )


def _gmacs(
    variant: Variant, side: int, counted: Callable[[int], tuple[int, StepCost]]
) -> tuple[float, float, float]:
    """Count billion multiply-adds of the whole picture, of the proposal and of a look.

    `counted` returns, for whole pictures of a side, that of the proposal, and the cost.
    """
    image_size = round(variant.wider * side)
    proposal_size, cost = counted(image_size)
    proposal = 0.0
    if variant.order not in ("whole", "scattered") and proposal_size != image_size:
        proposal = counted(proposal_size)[1].global_macs / 1e9
    return cost.global_macs / 1e9, proposal, cost.local_macs / 1e9
