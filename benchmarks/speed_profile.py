"""Where a training step of the paper's network spends its time on a CPU. See speed.py."""

import json
import resource
import sys
import time
from collections import Counter
from typing import Any

import torch
from pages import table
from speed_kept import MEMORY, keep
from speed_network import BATCH, cases, matrix_peak
from timing import last_line_of, share_in_system
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

# A name of the profiler belongs to the first part of which it holds a word.
PARTS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("convolution", "conv2d"),
    "max pooling": ("max_pool",),
    "ReLU": ("relu", "threshold", "clamp_min"),
    "matrix products": ("mm", "linear"),
    "copies and casts": ("copy",),
}
REST = "all others"
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
STEPS = 2


def part_of(name: str) -> str:
    for part, words in PARTS.items():
        if any(word in name for word in words):
            return part
    return REST


def one_run(precision: str) -> dict[str, Any]:
    """Measure in this process: seconds of a step, of them in the system, and by part."""
    step = cases("training step", compiled=False)[f"here, {precision}"]
    with FlopCounterMode(display=False) as counter:
        step()
    operations: Counter[str] = Counter()
    for operator, count in counter.get_flop_counts()["Global"].items():
        operations[part_of(str(operator))] += count
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    seconds = (time.perf_counter() - started) / STEPS
    system = share_in_system(before)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    times: Counter[str] = Counter()
    for event in profiled.key_averages():
        times[part_of(event.key)] += event.self_cpu_time_total / 1e6
    return {
        "seconds": seconds, "system": system, "times": times,
        "operations": operations,
    }  # fmt: skip


def measure(rounds: int) -> list[str]:
    columns: dict[str, dict[str, str]] = {}
    for precision, dtype in PRECISIONS.items():
        peak = matrix_peak(dtype, rounds)
        for memory in MEMORY:
            run = json.loads(last_line_of(__file__, precision, memory))
            columns[precision + (", memory kept" if memory == "kept" else "")] = column(run, peak)
    labels = next(iter(columns.values()))
    rows = [(label, *(cells[label] for cells in columns.values())) for label in labels]
    return [table((f"VGG-19 at 448/224, B = {BATCH}", *columns), rows)]


def column(run: dict[str, Any], peak: float) -> dict[str, str]:
    """Write what one run found, by the label of its row."""
    rate = sum(run["operations"].values()) / run["seconds"]
    return {
        "a step (s a picture)": f"{run['seconds'] / BATCH:.2f}",
        "of the matrix peak": f"{rate / peak:.0%}",
        "in the system, of the processor's time": f"{run['system']:.0%}",
        **{part: share(run, part, peak) for part in (*PARTS, REST)},
    }


def share(run: dict[str, Any], part: str, peak: float) -> str:
    """Give a part's share of the time, and where it computes sums of products its rate."""
    seconds = run["times"].get(part, 0.0)
    text = f"{seconds / sum(run['times'].values()):.0%}"
    operations = run["operations"].get(part, 0)
    return f"{text} (at {operations / seconds / peak:.0%} of the peak)" if operations else text


if __name__ == "__main__":
    keep(sys.argv[2])
    torch.manual_seed(0)
    print(json.dumps(one_run(sys.argv[1])))
