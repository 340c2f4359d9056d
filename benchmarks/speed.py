"""Speed, always side by side in one run. Fills the tables of docs/speed.md.

    python benchmarks/speed.py --data CUB_200_2011 --run-dir runs/RUN

RUN is a run folder of cub_reproduce.py on that data with `--freeze` and patches of its own; without
the two, the sections that need pictures stay as they are. `--sections head input` measures some
anew.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import speed_agreement
import speed_explain
import speed_growth
import speed_head
import speed_input
import speed_kept
import speed_looks
import speed_many
import speed_network
import speed_profile
import speed_serving
from pages import ROOT, fill, machine

PAGE = ROOT / "docs" / "speed.md"
FIGURE = ROOT / "docs" / "speed.png"
SECTIONS = ("head", "network", "profile", "kept", "serving", "predict", "many", "agreement",
            "decoding", "input", "explain", "looks", "growth")  # fmt: skip
ON_ONE_THREAD = ("input", "explain")
Section = Callable[[], list[str]]


def sections(args: argparse.Namespace) -> dict[str, Section]:
    """List what can be measured with what is given, in the order of the page."""
    rounds = args.rounds
    runs: dict[str, Section] = {
        "head": lambda: [speed_head.measure(4 * rounds)],
        "network": lambda: speed_network.measure(rounds),
        "profile": lambda: speed_profile.measure(rounds),
        "kept": lambda: [speed_kept.measure(rounds)],
        "serving": lambda: [speed_serving.measure(4 * rounds)],
        "predict": lambda: [speed_serving.measure_predict(rounds)],
        "many": lambda: [speed_many.measure(rounds)],
        "explain": lambda: [speed_explain.measure(rounds)],
        "growth": lambda: speed_growth.measure(rounds, FIGURE),
    }
    if args.data is not None:
        runs["input"] = lambda: speed_input.measure(args.data / "images", 3 * rounds)
        if args.run_dir is not None:
            runs["agreement"] = lambda: [speed_agreement.layouts(args.data, args.run_dir)]
            runs["decoding"] = lambda: [speed_agreement.decoding(args.data, args.run_dir)]
            runs["looks"] = lambda: [speed_looks.measure(args.data, args.run_dir, rounds)]
    return {name: runs[name] for name in args.sections if name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="pictures in CUB's layout")
    parser.add_argument("--run-dir", type=Path, help="of cub_reproduce.py, for the agreement")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    args = parser.parse_args()
    for name, measure in sections(args).items():
        on = machine(1 if name in ON_ONE_THREAD else None)
        text = "\n\n".join([*measure(), f"{on}; `--sections {name} --rounds {args.rounds}`."])
        print(f"{name}\n\n{text}\n", flush=True)
        fill(PAGE, name, text)


if __name__ == "__main__":
    main()
