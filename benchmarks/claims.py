"""The numbers that README and docs state: where each comes from, and whether it still holds.

    python benchmarks/claims.py              # run the quick ones again, and compare
    python benchmarks/claims.py --list       # all of them, with their commands

A quick claim is computed here within seconds, from the code alone: no weights, no pictures. A slow
one has the command that made it, and the day and the machine on which it did.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from kept_numbers import compared, frozen_gain, lead_over, of_kept, stopped_at
from torch import nn

from recurrent_attention import AnytimeAttention, TwoStreamClassifier, check_backbone
from recurrent_attention.backbone import FeatureBackbone

ROOT = Path(__file__).parents[1]
CPU = "two cores of an AMD EPYC, torch 2.14"
XEON = "two cores of an Intel Xeon, torch 2.14"
GPU = "one H200, torch 2.11"
TUNED = "recurrent-attention ablate DATA --backbone mobilenetv2_100 --weights FILE --lr 3e-4"
FROZEN = "recurrent-attention ablate DATA --freeze --backbone BACKBONE --weights FILE"


class Quick(NamedTuple):
    """A number that is computed again.

    Attributes:
        page: of the repository.
        quote: text of the page; spaces and line breaks do not count.
        stated: the number in it.
        compute: returns the number.
        within: how far the two may differ.
    """

    page: str
    quote: str
    stated: float
    compute: Callable[[], float]
    within: float = 0.0


class Slow(NamedTuple):
    """Numbers that took long to measure.

    Attributes:
        page: of the repository.
        quote: text of the page; spaces and line breaks do not count.
        command: that measured it; the page says more where it needs more.
        day: on which it did.
        machine: on which it did.
    """

    page: str
    quote: str
    command: str
    day: str
    machine: str


def names_that_work() -> float:
    """Count the backbones of the table on docs/backbones.md."""
    with (ROOT / "docs" / "backbones.csv").open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def macs(size: int) -> float:
    """Count billions of multiply-adds of MobileNetV2 on one picture."""
    report = check_backbone("mobilenetv2_100", image_size=size, patch_size=224)
    return report.global_stream.macs / 1e9


def passes_of_the_first_look() -> float:
    """Count the passes at 224 pixels that one look costs beyond the answer without a look."""
    model = TwoStreamClassifier("mobilenetv2_100", 2, image_size=224, patch_size=224)
    return (macs(model.proposal_size) + macs(224)) / macs(224)


def state_of_a_look() -> float:
    """Count the numbers of the state between two looks, beyond the features' own c."""
    attention = AnytimeAttention(48)
    state = attention.step(None, torch.randn(1, 48))
    return sum(part.numel() for part in state) - 48


def parameters(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters())


def memory(name: str, kept: bool) -> float:
    """Count megabytes of a training step: of the model, or what each picture adds to it."""
    report = check_backbone(name, batch_size=2)
    return (report.kept_bytes / 2 if kept else report.state_bytes) / 1e6


CLAIMS: tuple[Quick | Slow, ...] = (
    Quick("README.md", "1,371 of timm 1.0.31 are tested", 1371, names_that_work),
    Quick("README.md", "1,371 of timm 1.0.31 are tested", 1371, lambda: len(timm.list_models())),
    Quick(
        "README.md", "The first look costs five passes of the backbone", 5,
        passes_of_the_first_look, within=0.1,
    ),
    Quick("docs/results.md", "the whole picture alone | 0.30 |", 0.30, lambda: macs(224), 0.005),
    Quick("docs/results.md", "at twice the side | 1.20 |", 1.20, lambda: macs(448), 0.005),
    Quick(
        "docs/results.md", "an answer after each | 4.49 |", 4.49,
        lambda: 11 * macs(224) + macs(448), 0.005,
    ),
    Quick(
        "docs/results.md", "46.1 million parameters for 200 classes", 46.1,
        lambda: parameters(TwoStreamClassifier("vgg19", 200, global_head="conv")) / 1e6, 0.05,
    ),
    Quick("docs/scale.md", "| vgg19 | 1 | fp32 | 711 |", 711, lambda: memory("vgg19", False), 0.5),
    Quick(
        "docs/scale.md", "| vgg19 | 1 | fp32 | 711 | 392 |", 392,
        lambda: memory("vgg19", True), 1,
    ),
    Quick("docs/scale.md", "| resnet50 | 1 | fp32 | 878 |", 878,
          lambda: memory("resnet50", False), 0.5),
    Quick(
        "docs/method.md", "1280 channels for MobileNetV2", 1280,
        lambda: FeatureBackbone("mobilenetv2_100").out_channels,
    ),
    Quick("docs/looking-longer.md", "a state of c + 2 numbers", 2, state_of_a_look),
    Slow("README.md", "one network on the whole picture | 72.3 ± 0.3 |", FROZEN, "2026-11-28", CPU),
    Slow("README.md", "ten looks** | **79.6 ± 0.4** |", FROZEN, "2026-11-28", CPU),
    Slow("README.md", "| 72.3 ± 0.5 |", FROZEN, "2026-11-28", CPU),
    Slow("README.md", "| 73.9 ± 0.4 |", FROZEN, "2026-11-28", CPU),
    Slow("README.md", "| 72.9 ± 0.6 |", FROZEN, "2026-11-28", CPU),
    *(
        Quick("README.md", f"| {place}", value, partial(of_kept, "mobilenetv2", name), 0.05)
        for place, value, name in (
            ("78.5 ± 0.6 |", 78.5, "control"),
            ("**81.5 ± 0.6** |", 81.5, "anytime"),
            ("79.5 ± 0.8 |", 79.5, "ten-crop"),
            ("77.1 ± 0.9 |", 77.1, "paper"),
        )
    ),
    Quick("README.md", "ten looks lead ten crops by 2.0 ± 0.6 points", 2.02,
          lambda: lead_over("mobilenetv2", "ten-crop"), 0.05),
    Quick("README.md", "the lead is 2.4 ± 0.6 (80.3 ± 0.5 against 77.9)", 2.42,
          lambda: lead_over("lite0", "ten-crop"), 0.05),
    Quick("README.md", "(80.3 ± 0.5 against 77.9)", 80.35,
          lambda: of_kept("lite0", "anytime"), 0.05),
    Quick("README.md", "and reaches 81.4 %, for less compute", 81.4,
          lambda: stopped_at(0.5).top1, 0.05),
    Quick("README.md", "at 0.5, it takes 0.8 looks", 0.8, lambda: stopped_at(0.5).looks, 0.05),
    Quick("README.md", "one network at 384 pixels, which reaches 79.6 %", 79.6,
          lambda: compared("384", "larger")[0], 0.05),
    Quick("README.md", "63.8 ± 0.5 | 79.6 ± 1.2 |", 79.6,
          lambda: compared("384", "larger")[0], 0.05),
    Quick("README.md", "79.6 ± 0.8 |", 79.6, lambda: compared("pair", "two-networks")[0], 0.01),
    Quick("README.md", "is 1.9 ± 0.7 points below ten looks at 256", 1.92,
          lambda: compared("384", "larger")[1], 0.01),
    Quick("README.md", "on Lite0 1.5 ± 0.7 (p = .041)", 1.46,
          lambda: compared("384", "larger", "lite0")[1], 0.01),
    Slow("README.md", "128 pixels gain 13.9", TUNED, "2026-11-29", CPU),
    Quick("docs/results.md", "2.0 ± 0.6 points on MobileNetV2 and 2.4 ± 0.6 on", 2.02,
          lambda: lead_over("mobilenetv2", "ten-crop"), 0.05),
    Quick("docs/results.md", "also the mirrored picture | 1.00 | 76.3 ± 0.2 | | 76.8 ± 0.2 | +3.55",
          3.55, lambda: lead_over("lite0", "mirrored"), 0.01),
    Quick("docs/results.md", "| 78.9 ± 1.0 | +1.46 ± 0.71, p = .041 |", 78.9,
          lambda: compared("384", "larger", "lite0")[0], 0.05),
    Quick("docs/results.md", "| 76.1 ± 1.6 | +4.20 ± 0.60, p < .001 |", 4.20,
          lambda: compared("pair", "two-networks", "lite0")[1], 0.01),
    Quick("docs/results.md", "+2.35 ± 0.58, p < .001", 2.35,
          lambda: lead_over("mobilenetv2", "mirrored"), 0.01),
    Slow("docs/results.md", "## Fine-tuned, real birds", TUNED, "2026-11-29", CPU),
    Slow("README.md", "2.7 ± 1.2 points (three looks) shrank to 0.4 ± 1.2",
         "python benchmarks/where_it_pays.py", "2026-11-28", CPU),
    Slow("README.md", "takes 3.7 looks on average and reaches 79.3 %; all ten reach 79.6 %.",
         FROZEN, "2026-11-28", CPU),
    Quick("README.md", "from 76.7 ± 0.4 (whole picture) to 83.5 ± 0.3 (ten looks;", 6.89,
          lambda: frozen_gain("anytime"), 0.05),
    Quick("README.md", "81.7 at random places", 5.06, lambda: frozen_gain("scattered"), 0.05),
    Quick("README.md", "on EfficientNet-Lite0 3.4;", 3.4, lambda: frozen_gain("paper"), 0.05),
    Quick("README.md", "one look gains 4.6 there", 4.6, lambda: frozen_gain("one-step"), 0.05),
    Quick("docs/results.md", "81.71 ± 0.25 | +1.82 ± 0.67, p = .006", 1.82,
          lambda: lead_over("lite0", "scattered", "frozen"), 0.01),
    Quick("docs/results.md", "79.41 ± 0.38 | +4.13 ± 0.77, p < .001", 4.13,
          lambda: lead_over("lite0", "two-scales", "frozen"), 0.01),
    Quick("docs/results.md", "74.2 ± 1.1 | +6.12 ± 0.64, p < .001", 6.12,
          lambda: lead_over("lite0", "paper"), 0.01),
    Slow("docs/results.md", "Frozen backbones, real birds", FROZEN, "2026-11-28", CPU),
    Slow("docs/results.md", "| mean ± sd | 72.09 ± 0.58 | 76.94 ± 0.67 | 79.24 ± 0.80 |",
         FROZEN.replace("ablate", "train") + " --seed N", "2026-11-30", XEON),
    Slow("docs/results.md", "## How many looks", FROZEN, "2026-11-28", CPU),
    Slow("docs/scale.md", "## Millions of pictures", "python benchmarks/million.py", "2026-11-30",
         XEON),
    Slow("docs/results.md", "on one H200 (torch 2.11, float32)", "docs/lab/trials.md", "2026-11-27",
         GPU),
    Slow("docs/results.md", "## For which pictures it pays", "python benchmarks/where_it_pays.py",
         "2026-11-28", CPU),
    Slow("docs/results.md", "## Drawn birds, from scratch",
         "python examples/cub_reproduce.py --seed SEED", "2026-11-25", CPU),
    Slow("docs/results.md", "the authors' protocol on a CPU",
         "python examples/cub_reproduce.py --protocol paper", "2026-11-24", CPU),
    Slow("docs/looking-longer.md", "## What it brings", FROZEN, "2026-11-28", CPU),
    Slow("docs/looking-longer.md", "## Which birds take more looks",
         "python benchmarks/looks_figure.py runs/looks .cache/synthetic-birds-0", "2026-11-28",
         CPU),
    Slow("docs/looking-longer.md", "## Which look comes first", "python benchmarks/look_order.py",
         "2026-11-28", CPU),
    Slow("docs/focus.md", "Does the focus go from coarse to fine?", "python benchmarks/focus.py",
         "2026-11-24", CPU),
    Slow("docs/speed.md", "# Speed", "python benchmarks/speed.py", "2026-11-30", CPU),
    Slow("docs/scale.md", "## Two processes against one",
         "torchrun --nproc_per_node 2 examples/cub_reproduce.py", "2026-11-24", CPU),
    Slow("docs/scale.md", "peak per picture, CPU (MB)", "python benchmarks/memory.py", "2026-11-25",
         CPU),
    Slow("docs/reliability.md", "60 kills survived of 60", "python tests/stress/kills.py",
         "2026-11-25", CPU),
    Slow("docs/reliability.md", "## Damaged and hostile files", "python tests/stress/fuzz.py",
         "2026-11-25", CPU),
    Slow("docs/reliability.md", "wheel, sdist", "python -m build", "2026-11-25", CPU),
    Slow("docs/lab/boxes.md", "# ", "python benchmarks/boxes.py", "2026-11-24", CPU),
    Slow("docs/lab/frozen.md", "# ", "python examples/cub_reproduce.py --data DATA --freeze",
         "2026-11-24", CPU),
    Slow("docs/backbones.md", "# ", "python benchmarks/backbones.py", "2026-11-28", CPU),
)  # fmt: skip


def stands(claim: Quick | Slow) -> bool:
    """Tell whether the page has the quote; line breaks and case do not count."""
    page = (ROOT / claim.page).read_text(encoding="utf-8")
    return " ".join(claim.quote.split()).casefold() in " ".join(page.split()).casefold()


def check(claim: Quick) -> str:
    """Compute the number again; return what is wrong, or nothing."""
    found = claim.compute()
    if abs(found - claim.stated) <= claim.within:
        return ""
    return f"{claim.page} says {claim.stated:g} in {claim.quote!r}, but it is {found:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name all claims, and run none")
    args = parser.parse_args()
    faults = [f"{c.page} does not say {c.quote!r}" for c in CLAIMS if not stands(c)]
    for claim in CLAIMS:
        if isinstance(claim, Slow) and args.list:
            print(f"{claim.page}: {claim.quote}\n    {claim.command}")
            print(f"    {claim.day}, {claim.machine}")
        elif isinstance(claim, Quick) and args.list:
            print(f"{claim.page}: {claim.quote}\n    python benchmarks/claims.py")
        elif isinstance(claim, Quick):
            fault = check(claim)
            print(f"{'differs' if fault else 'holds'}: {claim.page}: {claim.quote}")
            faults += [fault] if fault else []
    print("\n".join(faults) or "all stand where they are claimed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
