"""The paper's network against a plain float32 formulation of the authors' one. See speed.py."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pages import table
from timing import Run, in_a_process, interleave, median, peak_of, ratio
from torch.utils.flop_counter import FlopCounterMode

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss

sys.path.append(str(Path(__file__).parents[1]))
from tests.helpers.authors_network import AuthorsNetwork  # plain torch modules, for tests alone

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 32 if DEVICE == "cuda" else 4
PLAIN = "authors' formulation, float32"
MODES = ("inference", "training step")


def cases(mode: str, *, compiled: bool = True) -> dict[str, Run]:
    torch.manual_seed(0)
    training = mode == "training step"
    images = torch.randn(BATCH, 3, 448, 448, device=DEVICE)
    patches = torch.randn(BATCH, 3, 224, 224, device=DEVICE)
    targets = torch.arange(BATCH, device=DEVICE)
    plain = AuthorsNetwork().to(DEVICE).train(training)
    ours = TwoStreamClassifier("vgg19", 200, global_head="conv").to(DEVICE).train(training)
    ours.load_state_dict(plain.state_dict())

    def plain_loss(output: Any) -> torch.Tensor:
        whole, part = (torch.nn.functional.cross_entropy(logits, targets) for logits in output)
        return whole + part

    def run(network: Callable[..., Any], loss: Callable[[Any], torch.Tensor], half: bool) -> None:
        with (
            torch.set_grad_enabled(training),
            torch.autocast(DEVICE, torch.bfloat16, enabled=half),
        ):
            output = network(images, patches)
        if training:
            loss(output).backward()

    loss = partial(TwoStreamLoss(), targets=targets)
    runs: dict[str, Run] = {
        PLAIN: lambda: run(plain, plain_loss, False),
        "here, float32": lambda: run(ours, loss, False),
        "here, bf16": lambda: run(ours, loss, True),
    }
    if compiled:
        faster = torch.compile(ours, fullgraph=True)
        runs["here, bf16, torch.compile"] = lambda: run(faster, loss, True)
    return runs


@torch.no_grad()
def matrix_peak(dtype: torch.dtype, rounds: int) -> float:
    """Operations a second of a large product or a large convolution, whichever has more.

    On the CPU they come from two libraries, MKL and oneDNN, of which one may be much slower.
    """
    side, batch = (8192, 64) if DEVICE == "cuda" else (4096, 4)
    matrix = torch.randn(side, side, device=DEVICE, dtype=dtype)
    maps = torch.randn(batch, 512, 56, 56, device=DEVICE, dtype=dtype)
    weight = torch.randn(512, 512, 3, 3, device=DEVICE, dtype=dtype)
    maps, weight = (t.to(memory_format=torch.channels_last) for t in (maps, weight))
    runs: dict[str, Run] = {
        "product": lambda: matrix @ matrix,
        "convolution": lambda: torch.nn.functional.conv2d(maps, weight, padding=1),
    }
    operations = {"product": 2 * side**3, "convolution": 2 * maps.numel() * 9 * 512}
    times = interleave(runs, rounds, f"matrix peak, {dtype}")
    return max(operations[name] / median(times, name) for name in runs)


def measure(rounds: int) -> list[str]:
    single, half = (matrix_peak(dtype, rounds) for dtype in (torch.float32, torch.bfloat16))
    rows = []
    for mode in MODES:
        runs = cases(mode)
        with FlopCounterMode(display=False) as counter:
            runs[PLAIN]()
        times = interleave(runs, rounds, f"VGG-19, {mode}")
        for name in times:
            seconds = median(times, name)
            share = counter.get_total_flops() / seconds / (half if "bf16" in name else single)
            rows.append(
                (
                    mode,
                    name,
                    f"{seconds / BATCH:.3f}",
                    f"{ratio(times, PLAIN, name):.2f}",
                    f"{share:.0%}",
                    f"{in_a_process(__file__, mode, name):.0f}",
                )
            )
    heads = ("seconds per image", "times as fast", "of the matrix peak", "peak memory (MB)")
    peaks = (
        "The matrix peak is the highest rate of one large matrix product or convolution in the "
        f"same run: {single / 1e9:,.0f} billion operations a second in float32, "
        f"{half / 1e9:,.0f} in bf16 ({half / single:.1f} times)."
    )
    return [table(("", f"VGG-19 at 448/224, B = {BATCH}", *heads), rows), peaks]


if __name__ == "__main__":
    mode, name = sys.argv[1:]
    print(peak_of(cases(mode, compiled="compile" in name)[name]))
