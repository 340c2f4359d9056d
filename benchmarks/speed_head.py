"""The recurrent head against `nn.LSTM` over the repeated input. See speed.py."""

import sys
from typing import Any

import torch
from einops import repeat
from pages import table
from timing import Run, in_a_process, interleave, median, peak_of, ratio
from torch import Tensor

from recurrent_attention import RecurrentRefinedAttention

CHANNELS = HIDDEN = 512
STEPS = 10
BATCHES = (1, 16, 64, 256)
MODES = ("forward", "forward and backward")


def cases(batch: int, mode: str) -> dict[str, Run]:
    torch.manual_seed(0)
    ours = RecurrentRefinedAttention(CHANNELS, HIDDEN, num_steps=STEPS)
    lstm = ours.to_lstm()
    features = torch.randn(batch, CHANNELS, requires_grad=True)

    def lstm_states(features: Tensor) -> Tensor:
        states: Tensor = lstm(repeat(features, "b c -> b t c", t=STEPS))[0]
        return states

    def run(states_of: Any) -> None:
        with torch.set_grad_enabled(mode != "forward"):
            states = states_of(features)
        if mode != "forward":
            states.sum().backward()

    return {
        "nn.LSTM": lambda: run(lstm_states),
        "here": lambda: run(lambda features: ours(features).states),
    }


def measure(rounds: int) -> str:
    rows = []
    for batch in BATCHES:
        for mode in MODES:
            times = interleave(cases(batch, mode), rounds, f"head, {batch}, {mode}")
            peaks = [in_a_process(__file__, str(batch), mode, name) for name in times]
            rows.append(
                (
                    batch,
                    mode,
                    *(f"{1000 * median(times, name):.1f}" for name in times),
                    f"{ratio(times, 'nn.LSTM', 'here'):.2f}",
                    *(f"{peak:.0f}" for peak in peaks),
                )
            )
    heads = ("B", "pass", "nn.LSTM (ms)", "here (ms)", "ratio", "nn.LSTM (MB)", "here (MB)")
    return table(heads, rows)


if __name__ == "__main__":
    batch, mode, name = sys.argv[1:]
    print(peak_of(cases(int(batch), mode)[name]))
