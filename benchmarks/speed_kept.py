"""What a fine-tuning step costs when glibc gives its memory back to the system. See speed.py."""

import json
import resource
import statistics
import sys
import time

import torch
from pages import table
from timing import last_line_of, share_in_system

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss
from recurrent_attention.training import keep_freed_memory

# backbone: side of pictures and patches, patches of a picture, pictures of a batch
STEPS = {"mobilenetv2_100": (256, 128, 2, 32), "resnet50": (224, 224, 1, 16)}
TIMED = 5
MEMORY = ("given back", "kept")


def keep(memory: str) -> None:
    """Let this process keep its memory, or give it back, as the command line says."""
    if memory == "kept" and not keep_freed_memory():
        sys.exit("Expected glibc, whose memory can be kept, but found another C library.")


def one_run(backbone: str) -> tuple[float, float, float]:
    """Measure in this process: seconds of a step, share of them in the system, peak in GB."""
    side, patch, patches, batch = STEPS[backbone]
    torch.manual_seed(0)
    sizes = {"image_size": side, "patch_size": patch, "num_patches": patches}
    model = TwoStreamClassifier(backbone, 50, patch_weighting="anytime", **sizes).train()
    images = torch.randn(batch, 3, side, side)
    parts = torch.randn(batch, patches, 3, patch, patch)
    loss, targets = TwoStreamLoss(), torch.arange(batch)
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF)
    for number in range(2 + TIMED):
        started = time.perf_counter()
        loss(model(images, parts), targets).backward()
        model.zero_grad()
        if number == 1:  # the first two ask for what the others find
            before = resource.getrusage(resource.RUSAGE_SELF)
        if number > 1:
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return statistics.median(seconds), share_in_system(before), peak


def measure(rounds: int) -> str:
    rows = []
    for backbone, (side, patch, patches, batch) in STEPS.items():
        taken = [
            [json.loads(last_line_of(__file__, backbone, memory)) for memory in MEMORY]
            for _ in range(rounds)
        ]
        faster = statistics.median(given[0] / kept[0] for given, kept in taken)
        what = f"{backbone}, B = {batch}, {side} pixels, {patches} x {patch}"
        for at, memory in enumerate(MEMORY):
            runs = [pair[at] for pair in taken]
            seconds, system, peak = map(statistics.median, zip(*runs, strict=True))
            times = f"{faster:.2f}" if at else "1.00"
            rows.append((what, memory, f"{seconds:.2f}", times, f"{system:.0%}", f"{peak:.1f}"))
    heads = ("memory is", "seconds", "times as fast", "in the system", "peak (GB)")
    return table(("training step, float32", *heads), rows)


if __name__ == "__main__":
    keep(sys.argv[2])
    print(json.dumps(one_run(sys.argv[1])))
