"""Proofs that the fuzzer would notice; fuzz.py runs by itself (CONTRIBUTING.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits and alarms are a matter of POSIX")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("import os; os.system('true')", "os.system("),
        ("import pickle; pickle.loads(b'cos\\nsystem\\n.')", "pickle.find_class("),
        ("import time; time.sleep(60)", "hung for 1 seconds"),
        ("import os; os.abort()", "the interpreter ended with code -6"),
        ("raise KeyError(3)", "KeyError: 3"),
        ("raise ValueError('no sentence of ours')", "ValueError: no sentence of ours"),
        ("bytearray(10**11)", "MemoryError"),
    ],
)
def test_the_fuzzer_notices(tmp_path, fault, said):
    (tmp_path / "fuzz_readers.py").write_text(
        "from types import SimpleNamespace\n"
        "def read(root):\n"
        "    if (root / 'x').read_bytes() != b'good':\n"
        f"        {fault}\n"
        "def bad():\n"
        "    return SimpleNamespace(seeds={'x': b'good'}, words=[b'w'], read=read,\n"
        "                           errors=(ValueError,))\n"
        "READERS = {'bad': bad}\n"
    )
    script = tmp_path / "fuzz.py"
    script.write_text(SCRIPT.read_text().replace("SECONDS = 10", "SECONDS = 1"))
    done = subprocess.run(
        [sys.executable, script, "--inputs", "3"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert said in done.stdout
