"""What several test files share: small data sets, and the real birds where they are."""

import importlib.util
import os
import threading
from pathlib import Path

import pytest
import torch
from helpers.loopback import Server
from PIL import Image

from recurrent_attention.data import Pictures

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # each its share of the cores
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def example():
    """Import a script of examples/ by its name."""

    def load(name):
        path = Path(__file__).parents[1] / "examples" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def real_data():
    """The folder with real birds, the authors' patches and a real ImageNet backbone."""
    if not (REAL_DATA / "CUB_200_2011_first50" / "images.txt").is_file():
        pytest.skip("the real birds are not here (../shared/data)")
    return REAL_DATA


@pytest.fixture
def colored_pictures(tmp_path):
    """Sixteen pictures of two classes that one glance tells apart, and two boxes for each."""
    root = tmp_path / "pictures"
    root.mkdir()
    names, labels, boxes = [], [], {}
    generator = torch.Generator().manual_seed(0)
    for number in range(16):
        label = number % 2
        shade = int(torch.randint(60, 200, (), generator=generator))
        color = (shade, 40, 40) if label == 0 else (40, 40, shade)
        Image.new("RGB", (48, 40), color).save(root / f"{number:02d}.png")
        names.append(f"{number:02d}.png")
        labels.append(label)
        boxes[names[-1]] = torch.tensor([[2.0, 2.0, 20.0, 20.0], [10.0, 5.0, 40.0, 38.0]])
    return Pictures(root, names, labels, ["red", "blue"]), boxes


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.leave.set()
    server.shutdown()
    thread.join()
    server.server_close()
