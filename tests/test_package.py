"""What importing the package brings along, and what its files say about each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recurrent_attention

ROOT = Path(__file__).parents[1]
EXTRAS = ("accelerate", "matplotlib", "scipy", "torchmetrics")


def imported_after(statement):
    code = f"{statement}; import sys; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_brings_no_extra():
    found = imported_after("import recurrent_attention, recurrent_attention.data")
    assert "timm" in found
    assert [name for name in EXTRAS if name in found] == []


def test_that_test_can_fail():
    assert "torchmetrics" in imported_after("import recurrent_attention.training")


def test_versions_agree():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert metadata["project"]["version"] == recurrent_attention.__version__


@pytest.mark.parametrize("number", [1, 2, 3, 4])  # 0 only shows the shape of the API
def test_python_of_the_readme_runs(number, tmp_path, monkeypatch, colored_pictures):
    """Every Python block, pasted into a file; the third reads the folder `pictures`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    code = blocks[number]
    monkeypatch.chdir(tmp_path)
    pictures, _ = colored_pictures
    for index, name in enumerate(pictures.names):
        target = tmp_path / "pictures" / pictures.class_names[pictures.labels[index]] / name
        target.parent.mkdir(exist_ok=True)
        pictures.path(index).rename(target)
    exec(compile(code, f"README.md block {number}", "exec"), {})
