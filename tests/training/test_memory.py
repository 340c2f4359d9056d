"""A process keeps what it frees when it is asked to, and then asks the system for no more."""

import os
import platform
import subprocess
import sys

import pytest

from recurrent_attention.training import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from recurrent_attention.training import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    torch.ones(16, 2**20)  # 64 MB
for _ in range(3):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""

EVALUATION = """
import types
import torch
from recurrent_attention import TwoStreamLoss, TwoStreamOutput
from recurrent_attention.training.evaluation import run_evaluation
torch.set_num_threads(1)
BATCHES, SIZE, CLASSES = 90, 256, 10_000
own = []
class Network(torch.nn.Module):
    def forward(self, first, second):
        looks = torch.randn(SIZE, 3, 1, CLASSES)
        line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
        own.append(int(line.split()[1]) / 1000)
        by_looks = looks[:, :, 0].cumsum(1)
        last = by_looks[:, -1]
        return TwoStreamOutput(last + 1, last - 1, last.clone(), looks, looks[..., 0] * 0 + 1,
                               torch.ones(SIZE, 3) / 3, None, by_looks + 1, by_looks)
class Samples:
    names, class_names = ("",) * BATCHES * SIZE, ("",) * CLASSES
    labels = (0,) * BATCHES * SIZE
    def __len__(self):
        return BATCHES * SIZE
class Loader:
    def __len__(self):
        return BATCHES
    def __iter__(self):
        for batch in range(BATCHES):
            places = torch.arange(batch * SIZE, (batch + 1) * SIZE)
            yield places, places, places, torch.zeros(SIZE, dtype=torch.long)
resources = types.SimpleNamespace(progress=False, accelerator=types.SimpleNamespace(
    gather_for_metrics=lambda found: found, device=torch.device("cpu")))
run_evaluation(resources, Network(), Loader(), CLASSES, TwoStreamLoss(), samples=Samples())
print(own[BATCHES // 3], own[-1])
"""


def of_a_process(word, **environ):
    found = subprocess.run(
        [sys.executable, "-c", FAULTS, word],
        capture_output=True, text=True, check=True, env=os.environ | environ,
    )  # fmt: skip
    return found.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    (given_back,) = map(int, of_a_process("leave"))
    kept, faults = of_a_process("keep")
    assert kept == "True"
    assert int(faults) < 5 < given_back / 20  # of 64 MB, also where a page has 2 MB
    for own in (
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=9"},
    ):
        assert of_a_process("keep", **own)[0] == "False"


def test_there_is_nothing_to_keep_without_glibc(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory is a process's own")
def test_evaluating_more_pictures_of_many_classes_takes_no_more_memory():
    found = subprocess.run(
        [sys.executable, "-c", EVALUATION], capture_output=True, text=True, check=True
    )
    early, late = map(float, found.stdout.split())
    assert late - early < 200  # MB in 60 batches; what each batch keeps by itself took 1000
