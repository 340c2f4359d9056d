r"""Does the focus go from coarse to fine? Measure each step's map on real birds, beside controls.

    python benchmarks/focus.py --data CUB_200_2011 --patches PATCHES --weights FILE --out focus

Heads are trained on frozen features; then the step maps of test pictures (first patch, class: the
true one) are measured against bounding boxes and part locations. The controls are a recurrence that
stays as it was initialised, while scorer and classifiers are trained; the trained model's maps with
their steps shuffled in each picture; and a model of one step.

Measures of a map over its patch, at 56 x 56 points, each cell where it looks (`resample_cells`):

- on bird: share of the map's mass inside the bird's bounding box
- peak to part: distance of its highest point to the nearest visible part, in picture diagonals
- area: smallest share of the patch that holds half of the mass
- deletion, insertion: the step's logit of the class, averaged over masks that hide (show) the 10,
  30, 50 and 70 % of the patch that the map ranks highest, minus the same for random patches of the
  same size; what is hidden gets the mean colour. A map that is right deletes below 0 and inserts
  above it.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import (
    CUB200,
    TwoStreamDataset,
    TwoStreamSample,
    find_patch_files,
    read_patch_file,
)
from recurrent_attention.ops.cell_offset import resample_cells
from recurrent_attention.training import Recipe, fit

GRID = 56  # points a side at which a map is measured; the maps have 7
HIDDEN_SHARES = (0.1, 0.3, 0.5, 0.7)
RANDOM_BLOCKS = 7  # random patches are as coarse as the cells of a map
MEASURES = ("on bird", "peak to part", "area", "deletion", "insertion")
MODELS = ("trained", "untrained recurrence", "one step")
COLORS = ("#4477aa", "#ee7733", "#228833", "#888888")


def geometry(test: CUB200, index: int, box: Tensor) -> tuple[Tensor, Tensor, float]:
    """Give bounding box and parts in shares of the patch, and the picture's diagonal.

    Args:
        test: the pictures.
        index: of one.
        box: (4) the patch, xyxy in pixels of the picture.

    Returns:
        (4) xyxy and (n 2) xy in shares of the patch's sides, and the diagonal in pixels.
    """
    name = test.names[index]
    corner, side = box[:2], box[2:] - box[:2]
    bird = (torch.tensor(test.bounding_boxes[name]) - corner.repeat(2)) / side.repeat(2)
    parts = (torch.tensor(list(test.parts[name].values())) - corner) / side
    return bird, parts, math.hypot(*test.size(index))


def measure(
    maps: Tensor, bird: Tensor, parts: Tensor, side: Tensor, diagonal: float, offset: float
) -> Tensor:
    """Measure step maps (t h w) whose cells look `offset` off their middles; NaN where one is 0.

    Returns:
        (3 t): on bird, peak to part, area.
    """
    fine = resample_cells(maps, (GRID, GRID), offset)
    mass = reduce(fine, "t h w -> t", "sum")
    centres = (torch.arange(GRID) + 0.5) / GRID
    inside_x = (centres >= bird[0]) & (centres <= bird[2])
    inside_y = (centres >= bird[1]) & (centres <= bird[3])
    on_bird = (fine * inside_y[:, None] * inside_x).sum((1, 2)) / mass
    flat = rearrange(fine, "t h w -> t (h w)")
    peak = flat.argmax(1)
    peaks = torch.stack([centres[peak % GRID], centres[peak // GRID]], dim=1)
    gaps = (rearrange(peaks, "t xy -> t 1 xy") - parts) * side
    distance = gaps.norm(dim=2).min(1).values / diagonal
    highest_first = flat.sort(1, descending=True).values.cumsum(1)
    area = (highest_first < 0.5 * mass[:, None]).sum(1).add(1) / GRID**2
    found = torch.stack([on_bird, distance, area])
    return torch.where(mass > 0, found, torch.nan)


@torch.no_grad()
def masked_scores(
    model: TwoStreamClassifier, patch: Tensor, maps: Tensor, target: int, seed: int
) -> Tensor:
    """Hide, and show, what each step's map (t h w) ranks highest in a patch (3 h w).

    Returns:
        (2 t): deletion and insertion, each minus that of random patches.
    """
    height, width = patch.shape[1:]
    steps = len(maps)
    fine = resample_cells(maps, (height, width), model.local_cell_offset)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, RANDOM_BLOCKS, RANDOM_BLOCKS, generator=generator)
    noise = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)[0]
    orders = torch.cat([fine, noise])
    flat = rearrange(orders, "t h w -> t (h w)")
    ranks = flat.sort(dim=1, descending=True, stable=True).indices
    masks = torch.zeros(len(HIDDEN_SHARES), len(orders), height * width)
    for row, share in zip(masks, HIDDEN_SHARES, strict=True):
        row.scatter_(1, ranks[:, : round(share * height * width)], 1.0)
    masks = rearrange(masks, "s t (h w) -> (s t) 1 h w", h=height)
    scores = []
    for kept in (1 - masks, masks):
        logits = []
        for some in (kept * patch).split(8):
            found = model.attention(model.local_backbone(some))
            logits.append(model.local_head(found.states)[:, :, target])
        answers = reduce(
            torch.cat(logits), "(s n) t -> n t", "mean", s=len(HIDDEN_SHARES)
        )  # n: the steps' orders, then the random one
        scores.append(answers[:steps].diagonal() - answers[steps])
    return torch.stack(scores)


def examine(
    model: TwoStreamClassifier,
    test: CUB200,
    data: TwoStreamDataset,
    indices: list[int],
    masked: int,
) -> Tensor:
    """Measure the maps of test pictures; deletion and insertion of the first `masked` of them.

    Returns:
        (5 n t), NaN where nothing was measured.
    """
    model.eval()
    found = []
    for number, index in enumerate(indices):
        sample: TwoStreamSample = data[index]
        explained = model.explain(sample.image[None], patches=sample.patches[None],
                                  target=sample.label)  # fmt: skip
        maps = explained.step_maps[0, 0]
        box = data.boxes[test.names[index]][0].float()
        bird, parts, diagonal = geometry(test, index, box)
        offset = model.local_cell_offset
        values = measure(maps, bird, parts, box[2:] - box[:2], diagonal, offset)
        scores = torch.full((2, len(maps)), torch.nan)
        if number < masked:
            scores = masked_scores(model, sample.patches[0], maps, sample.label, index)
            scores = torch.where(maps.sum((1, 2)) > 0, scores, torch.nan)
        found.append(torch.cat([values, scores]))
    return torch.stack(found, dim=1)


def uniform(test: CUB200, data: TwoStreamDataset, indices: list[int]) -> list[float]:
    """Measure a map that is the same everywhere, its peak in the middle of the patch."""
    rows = []
    for index in indices:
        box = data.boxes[test.names[index]][0].float()
        bird, parts, diagonal = geometry(test, index, box)
        side = box[2:] - box[:2]
        on_bird = float(measure(torch.ones(1, 1, 1), bird, parts, side, diagonal, 0.0)[0, 0])
        rows.append((on_bird, float(((0.5 - parts) * side).norm(dim=1).min()) / diagonal))
    return [statistics.mean(column) for column in zip(*rows, strict=True)] + [0.5, 0.0, 0.0]


def shuffled(values: Tensor, seed: int) -> Tensor:
    """Shuffle the steps of (m n t) in each picture."""
    order = torch.rand(values.shape[1:], generator=torch.Generator().manual_seed(seed)).argsort(1)
    return values.gather(2, repeat(order, "n t -> m n t", m=len(values)))


def draw(curves: dict[str, Tensor], flat: list[float], path: Path) -> None:
    """Draw mean and spread over seeds of (seed m t) for each model."""
    figure = Figure(figsize=(13, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for number, axes in enumerate(figure.subplots(1, len(MEASURES))):
        for (name, values), color in zip(curves.items(), COLORS, strict=True):
            mean = values[:, number].mean(0)
            spread = values[:, number].std(0) if len(values) > 1 else torch.zeros_like(mean)
            steps = range(1, len(mean) + 1)
            axes.plot(steps, mean, color=color, marker="o", markersize=3, label=name)
            axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.18, lw=0)
        axes.axhline(flat[number], color="#222222", lw=0.8, ls=":", label="uniform or random map")
        axes.set_title(MEASURES[number], fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5,
                  frameon=False)  # fmt: skip
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--patches", type=Path, required=True)
    add("--weights", type=Path, required=True)
    add("--backbone", default="mobilenetv2_100")
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=15)
    add("--steps", type=int, default=10)
    add("--pictures", type=int, default=300, help="test pictures, evenly over the classes")
    add("--masked-pictures", type=int, default=40, help="of them for deletion and insertion")
    add("--cache-dir", type=Path, default=Path(".cache") / "features")
    add("--out", type=Path, default=Path("focus"), help="for focus.json and focus.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train, test = CUB200(args.data, "train"), CUB200(args.data, "test")
    train_boxes, test_boxes = (
        read_patch_file(path, split)
        for path, split in zip(find_patch_files(args.patches), (train, test), strict=True)
    )
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(len(test), generator=generator)[: args.pictures].tolist()
    overlay = {"pretrained_cfg_overlay": {"file": str(args.weights)}}
    results: dict[str, list[Tensor]] = {name: [] for name in (*MODELS, "shuffled steps")}
    for seed in range(args.seeds):
        for name in MODELS:
            torch.manual_seed(seed)
            model = TwoStreamClassifier(
                args.backbone, len(train.class_names), pretrained=True, backbone_kwargs=overlay,
                image_size=224, num_steps=1 if name == "one step" else args.steps,
            )  # fmt: skip
            if name == "untrained recurrence":
                model.attention.cells.requires_grad_(False)
            recipe = Recipe(epochs=args.epochs, label_smoothing=0.1, freeze=True, seed=seed)
            data = TwoStreamDataset.for_model(model, train, train_boxes, num_patches=2, train=True)
            fitted = fit(model, data, recipe=recipe, cache_dir=args.cache_dir, progress=False)
            data = TwoStreamDataset.for_model(model, test, test_boxes, num_patches=1)
            found = examine(model, test, data, indices, args.masked_pictures)
            results[name].append(found)
            if name == "trained":
                results["shuffled steps"].append(shuffled(found, seed))
            accuracy = fitted.history[-1]["train_local"]
            print(
                f"seed {seed}, {name}: local top-1 in training {100 * accuracy:.1f} %", flush=True
            )
    flat = uniform(test, data, indices)
    report(results, flat, args)


def report(results: dict[str, list[Tensor]], flat: list[float], args: argparse.Namespace) -> None:
    """Print the table, and write focus.json and focus.png."""
    curves = {name: torch.stack([f.nanmean(1) for f in found]) for name, found in results.items()}

    def cell(values: Tensor) -> str:
        spread = values.std() if len(values) > 1 else torch.tensor(0.0)
        return f"{values.mean():.3f} ± {spread:.3f}"

    steps = sorted({0, 1, 2, args.steps // 2 - 1, args.steps - 1} & set(range(args.steps)))
    for number, measure_ in enumerate(MEASURES):
        print(f"\n{measure_} (uniform or random map: {flat[number]:.3f})\n")
        heads = [f"step {step + 1}" for step in steps]
        print(f"| model | {' | '.join(heads)} | last - first |\n{'|---' * (len(heads) + 2)}|")
        for name, values in curves.items():
            own = [
                cell(values[:, number, step]) if step < values.shape[2] else "" for step in steps
            ]
            # Pictures whose first or last map is 0 are left out of the difference.
            gaps = [f[number, :, -1] - f[number, :, 0] for f in results[name]]
            change = torch.stack([gap.nanmean() for gap in gaps])
            print(f"| {name} | {' | '.join(own)} | {cell(change) if values.shape[2] > 1 else ''} |")
    for name, found in results.items():
        empty = torch.stack([f[0].isnan().float().mean() for f in found]).mean()
        print(f"\nmaps that are 0, {name}: {100 * empty:.1f} %", end="")
    print()
    (args.out / "focus.json").write_text(
        json.dumps({name: values.tolist() for name, values in curves.items()} | {"uniform": flat})
    )
    draw(curves, flat, args.out / "focus.png")


if __name__ == "__main__":
    main()
