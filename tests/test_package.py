"""What importing the package brings along, and what its files say about each other."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recurrent_attention

ROOT = Path(__file__).parents[1]
EXTRAS = (
    "accelerate",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "scipy",
    "torchmetrics",
)


def imported_after(statement):
    code = f"{statement}; import sys; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_brings_no_extra():
    found = imported_after("import recurrent_attention.cli, recurrent_attention.data")
    assert "timm" in found
    assert [name for name in EXTRAS if name in found] == []


@pytest.mark.slow
def test_that_test_can_fail():
    assert "torchmetrics" in imported_after("import recurrent_attention.training")


def test_versions_agree():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert metadata["project"]["version"] == recurrent_attention.__version__
