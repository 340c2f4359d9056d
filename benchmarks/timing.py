"""Measuring side by side: times in rounds, peak memory in a process of its own."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tqdm import tqdm

MB = 1e6
Run = Callable[[], object]


def interleave(runs: Mapping[str, Run], rounds: int, description: str) -> dict[str, list[float]]:
    """Time each of `runs` once a round, after one that does not count, in an order that turns."""
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in tqdm(range(-1, rounds), desc=description, leave=False):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            _wait_for_device()
            started = time.perf_counter()
            runs[name]()
            _wait_for_device()
            if round_ >= 0:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times as long `slow` takes as `fast`: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def median(times: Mapping[str, list[float]], name: str) -> float:
    return statistics.median(times[name])


def peak_of(run: Run) -> float:
    """By how many MB the peak of this process rises while it runs; of a GPU, of its memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / MB
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is there now
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def share_in_system(before: resource.struct_rusage) -> float:
    """Of this process's time on processors since `before`, the share inside the system."""
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = (getattr(after, n) - getattr(before, n) for n in ("ru_stime", "ru_utime"))
    return system / (system + user)


def last_line_of(script: str | Path, *arguments: str, **environment: str) -> str:
    """Run a script in a process of its own, and return the last line that it prints."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout.splitlines()[-1]


def in_a_process(script: str | Path, *arguments: str) -> float:
    """Run a script that prints a number as its last word."""
    return float(last_line_of(script, *arguments).split()[-1])


def status(name: str) -> float:
    """Read one of the sizes that the system keeps of this process, in MB."""
    sizes = Path("/proc/self/status").read_text()
    return int(sizes.partition(f"{name}:")[2].split()[0]) * 1024 / MB


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
