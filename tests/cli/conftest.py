"""A saved model, and pictures of its classes."""

import pytest
from helpers.command import saved_model
from helpers.models import photo

NAMES = ["auk", "emu", "owl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory, NAMES)


@pytest.fixture
def birds(tmp_path):
    folder = tmp_path / "birds"
    for number, name in enumerate(("auk", "emu", "owl")):
        (folder / name).mkdir(parents=True)
        for seed in range(2):
            photo(10 * number + seed).save(folder / name / f"{seed}.png")
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """A name that is no folder is asked for on the Hub, five times where there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
