"""Saving and sharing: whole files, a card that runs, a repository that loads."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers.hub_server import COMMIT, hub_on_loopback
from helpers.models import make
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.hub import hub_network

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and file size limits")
NAMES = ["auk", "b`ee\n", "<c>", "d|o", "é"]


@pytest.fixture(scope="module")
def model():
    return make(class_names=NAMES)


@pytest.fixture
def hub(monkeypatch):
    with hub_on_loopback(monkeypatch) as hub:
        yield hub


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_saved(model, tmp_path):
    folder = tmp_path / "a" / "b"
    assert model.save_pretrained(folder) is None
    assert sorted(contents(folder)) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["class_names"] == NAMES
    assert (config["image_size"], config["patch_size"]) == (64, 32)
    look = config["backbone_kwargs"]["pretrained_cfg_overlay"]
    for name in ("mean", "std"):
        assert look[name] == list(model.data_config[name])
    assert look["interpolation"] == model.data_config["interpolation"]
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()


def test_attributes_that_were_set_later_are_saved(tmp_path):
    model = make(num_classes=2, patch_weighting="equal")
    model.fusion_weight, model.num_patches, model.class_names = 0.25, 7, ("a", "b")
    model.attention.num_steps, model.drop.p = 9, 0.5
    model.save_pretrained(tmp_path)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert (loaded.fusion_weight, loaded.num_patches, loaded.class_names) == (0.25, 7, ("a", "b"))
    assert (loaded.attention.num_steps, loaded.drop.p) == (9, 0.5)


def test_the_lines_of_the_card_run(model, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "birds", model_card_kwargs={"notes": "Top-1: 12 %."})
    card = (tmp_path / "birds" / "README.md").read_text()
    for part in (
        "`test_resnet`",
        "64 x 64",
        "3 looks at each",
        "Top-1: 12 %.",
        "2005.10979",
        "MIT",
    ):
        assert part in card
    data = ModelCard(card).data
    assert (data.library_name, data.license) == ("recurrent-attention", "mit")
    assert data.pipeline_tag == "image-classification"
    block = re.search(r"```text\n(.*?)\n```", card, re.DOTALL)[1]
    assert [json.loads(line) for line in block.splitlines()] == NAMES
    Image.new("RGB", (80, 60)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 3
    exec(code, {})
    assert "global stream alone" in capsys.readouterr().out


def test_a_card_that_is_there_stays_and_many_classes_are_cut(tmp_path):
    model = make(num_classes=250)
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    assert "and 50 more" in card.read_text()
    card.write_text("mine")
    model.save_pretrained(tmp_path)
    assert card.read_text() == "mine"


def test_an_empty_word_is_saved_and_loaded(tmp_path):
    model = make(backbone_kwargs={"global_pool": ""})
    model.save_pretrained(tmp_path)
    again = TwoStreamClassifier.from_pretrained(tmp_path)
    assert again.settings.backbone_kwargs["global_pool"] == ""
    assert same_weights(model, again)


def test_what_will_not_be_loaded_is_warned_of(tmp_path):
    model = make(fusion_weight=2e6)
    with pytest.warns(UserWarning, match="will refuse") as caught:
        model.save_pretrained(tmp_path)
    sentence = (
        f"Expected `fusion_weight` in {tmp_path / 'config.json'} to be a number in "
        "[-1e+06, 1e+06], but got 2000000.0."
    )
    assert str(caught[0].message) == f"from_pretrained will refuse what is saved: {sentence}"
    assert caught[0].filename == __file__
    with pytest.raises(ValueError) as refused:
        TwoStreamClassifier.from_pretrained(tmp_path)
    assert str(refused.value) == sentence


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    model = make(num_classes=2, backbone_kwargs={"act_layer": torch.nn.SiLU})
    with pytest.raises(ValueError) as caught:
        model.save_pretrained(tmp_path / "model")
    assert str(caught.value) == (
        "Expected a configuration that can be written as JSON, but got: Object of type type is not "
        "JSON serializable. Pass names to backbone_kwargs, such as act_layer='gelu'."
    )
    assert not (tmp_path / "model").exists()


@posix
def test_a_full_disk_keeps_what_was_there(model, tmp_path):
    """The limit on the size of a file stops the writer in the middle, as a full disk does."""
    import resource

    make(class_names=["v", "w", "x", "y", "z"]).save_pretrained(tmp_path)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            model.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"Expected to write {tmp_path / 'model.safetensors'}, but got: File too large. What was "
        "there before is as it was. Make room or choose another place, and try again."
    )
    assert contents(tmp_path) == before
    model.save_pretrained(tmp_path)
    assert TwoStreamClassifier.from_pretrained(tmp_path).class_names == tuple(NAMES)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("half", ["config.json", "model.safetensors"])
def test_a_kill_in_the_middle_keeps_what_was_there(model, tmp_path, monkeypatch, half):
    make(class_names=["v", "w", "x", "y", "z"]).save_pretrained(tmp_path)
    before = contents(tmp_path)

    def killed_half_way(_, path):
        if half == "model.safetensors":
            Path(path).write_bytes(before["model.safetensors"][:1_000_000])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(hub_network, "save_model", killed_half_way)
    child = os.fork()
    if not child:
        try:
            model.save_pretrained(tmp_path)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert {name: contents(tmp_path)[name] for name in before} == before
    monkeypatch.undo()
    model.save_pretrained(tmp_path)
    assert same_weights(TwoStreamClassifier.from_pretrained(tmp_path), model)


def test_half_precision_is_saved_as_it_is_and_loaded_as_a_new_model_is(tmp_path):
    make(num_classes=2).half().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["global_head.weight"].dtype == torch.float16
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert loaded.global_head.weight.dtype == torch.float32
    assert torch.equal(loaded.global_head.weight, weights["global_head.weight"].float())


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for place, said in (
        ("file", "Expected a folder at .*file, but it is a file"),
        ("link", "Expected a folder at .*link, but it is a link to nothing"),
        ("file/model", "Expected to make the folder .*, but got: Not a directory"),
    ):
        with pytest.raises(OSError, match=f"^{said}"):
            make(num_classes=2).save_pretrained(tmp_path / place)


@pytest.mark.parametrize("name", ["birds", "someone/birds"])
def test_pushed_to_a_repository_and_loaded_from_it(model, hub, tmp_path, name):
    url = model.push_to_hub(name, token="hf_secret")
    assert url.endswith(f"/someone/birds/commit/{COMMIT}")
    assert set(hub.tokens) <= {"Bearer hf_secret", None}
    assert "Bearer hf_secret" in hub.tokens
    files = hub.repositories["someone/birds"]["main"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert 'from_pretrained("someone/birds")' in files["README.md"].decode()
    assert str(tmp_path) not in files["README.md"].decode()
    loaded = TwoStreamClassifier.from_pretrained("someone/birds", cache_dir=tmp_path)
    assert same_weights(loaded, model)
    assert loaded.class_names == tuple(NAMES)


def test_a_model_card_that_is_there_stays_also_on_the_hub(model, hub, tmp_path):
    model.save_pretrained(tmp_path / "birds", model_card_kwargs={"notes": "Right in 83.6 %."})
    card = tmp_path / "birds" / "README.md"
    card.write_text(card.read_text() + "\nMore.\n")
    model.save_pretrained(tmp_path / "birds", push_to_hub=True, token="t")
    files = hub.repositories["someone/birds"]["main"]
    assert "Right in 83.6 %." in files["README.md"].decode()
    assert files["README.md"].decode().endswith("More.\n")
    model.push_to_hub("birds", token="t")
    assert sorted(hub.repositories["someone/birds"]["main"]) == ["config.json", "model.safetensors"]
    hub.repositories["someone/birds"]["main"]["README.md"] = b"edited"
    model.push_to_hub("birds", token="t", model_card_kwargs={"notes": "New."})
    assert "New." in hub.repositories["someone/birds"]["main"]["README.md"].decode()


def test_saved_and_pushed_in_one_call_to_a_branch(model, hub, tmp_path):
    url = model.save_pretrained(
        tmp_path / "birds", push_to_hub=True, token="t", branch="b", commit_message="m"
    )
    assert url.endswith(COMMIT)
    assert list(hub.repositories["someone/birds"]) == ["b"]
    assert (tmp_path / "birds" / "config.json").is_file()
