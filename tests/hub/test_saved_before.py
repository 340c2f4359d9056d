"""Models saved before the network and the user's class were two: they load, and answer the same.

saved_models.json holds their config.json, the names and shapes of their weights, and their answers;
the weights themselves come from a formula.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recurrent_attention import TwoStreamClassifier

SAVED = json.loads(Path(__file__).with_name("saved_models.json").read_text("utf-8"))


def numbers(shape, phase):
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(steps * 0.7 + phase).reshape(shape).float()


def weights_of(entries):
    weights = {}
    for place, (name, (_, shape)) in enumerate(entries.items()):
        weights[name] = numbers(shape, place) * 0.2
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(3)
    return weights


@pytest.fixture(params=SAVED)
def saved(request, tmp_path):
    found = SAVED[request.param]
    (tmp_path / "config.json").write_text(json.dumps(found["config"]))
    weights = weights_of(found["weights"])
    save_file(weights, tmp_path / "model.safetensors", metadata=found["metadata"])
    return found, tmp_path


def test_it_answers_as_before(saved):
    found, folder = saved
    model = TwoStreamClassifier.from_pretrained(folder)
    images, patches = numbers((2, 3, 64, 64), 0.3), numbers((2, 2, 3, 32, 32), 0.9)
    with torch.no_grad():
        given, own = model(images, patches), model(images)
    for answer, wanted in (
        (given.logits, found["logits"]),
        (own.logits, found["own_logits"]),
        (own.boxes, found["boxes"]),
    ):
        torch.testing.assert_close(answer, torch.tensor(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_it_is_saved_as_before(saved, tmp_path):
    found, folder = saved
    TwoStreamClassifier.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == found["config"]
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
