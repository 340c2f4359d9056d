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
