"""The paper's network against a plain float32 formulation of the authors' one. See speed.py."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import Run, in_a_process, interleave, median, peak_of, ratio, table

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss

sys.path.append(str(Path(__file__).parents[1]))
from tests.authors_network import AuthorsNetwork  # plain torch modules, for tests alone

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


def measure(rounds: int) -> str:
    rows = []
    for mode in MODES:
        times = interleave(cases(mode), rounds, f"VGG-19, {mode}")
        for name in times:
            peak = in_a_process(__file__, mode, name)
            seconds = median(times, name) / BATCH
            rows.append(
                (mode, name, f"{seconds:.3f}", f"{ratio(times, PLAIN, name):.2f}", f"{peak:.0f}")
            )
    return table(("", "VGG-19 at 448/224", "seconds per image", "times as fast", "peak (MB)"), rows)


if __name__ == "__main__":
    mode, name = sys.argv[1:]
    print(peak_of(cases(mode, compiled="compile" in name)[name]))
