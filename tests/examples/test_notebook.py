"""The notebook: it runs from top to bottom, and what it shows is what notebooks can show."""

import base64
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "birds.ipynb"


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks: it is in [dev]")
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks: it is in [dev]")
    pytest.importorskip("ipykernel", reason="ipykernel runs their cells: it is in [dev]")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # the other choice is warned of
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    book = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()

    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    (table,) = (data["text/html"] for data in shown if "text/html" in data)
    assert table.startswith("<table")
    assert all(f">{name}</td>" in table for name in ("red", "yellow", "blue"))
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        for data in shown
        if "image/png" in data
    ]
    birds, one, two = (picture.size for picture in pictures)
    assert birds == (640, 360)
    assert one == two
    assert one[0] > 800  # a strip with four looks
    assert any("fused" in output.get("text", "") for output in outputs)
    errors = "".join(output.text for output in outputs if output.get("name") == "stderr")
    said = [line for line in errors.splitlines() if "Warning" in line]
    assert all("IProgress not found" in line for line in said)  # of tqdm, where no ipywidgets are
