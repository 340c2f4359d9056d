"""from_pretrained and load_checkpoint: what fits is loaded, all else is one sentence."""

import argparse
import collections
import json
import os
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from helpers.authors_network import AuthorsNetwork
from helpers.hub_server import hub_on_loopback
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from recurrent_attention import FeatureBackbone, TwoStreamClassifier, load_checkpoint
from recurrent_attention.hub.weights import read_weights

SIZES = {"image_size": 64, "patch_size": 32, "hidden_size": 16, "num_steps": 3}


def make(num_classes=3, backbone="test_resnet", seed=0, **kwargs):
    torch.manual_seed(seed)
    return TwoStreamClassifier(backbone, num_classes, **(SIZES | kwargs)).eval()


@pytest.fixture(scope="module")
def model():
    model = make(class_names=["a", "b", "c"], fusion_weight=0.5)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing that an initialisation could give
            parameter.add_(torch.arange(parameter.numel()).view_as(parameter) % 7)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@cache
def make_once():
    """Make a model for tests in which nothing is loaded."""
    return make(seed=1)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found, expected, but=()):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) != name.startswith(tuple(but) or ("?",)), name


def rewrite(path, **changes):
    weights = load_file(path) | changes
    save_file({name: value for name, value in weights.items() if value is not None}, path)


def refusal(call, error=ValueError, where=""):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    if where:
        message = message.replace(str(where), "X")
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("backbone", "kwargs"), [("test_resnet", {}), ("test_vit_relpos", {"depth": 1})]
)
def test_loaded_with_and_without_a_skeleton(tmp_path, backbone, kwargs):
    """The second keeps tables that no state dict holds, and is built in full."""
    source = make(backbone=backbone, backbone_kwargs=kwargs, patch_size=64)
    source.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(state(loaded), state(source))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images, images).logits, source(images, images).logits)
    for name, parameter in source.named_parameters():
        assert loaded.get_parameter(name).requires_grad == parameter.requires_grad
    assert not loaded.training
    (tmp_path / "model.safetensors").write_bytes(b"")  # the file's pages are not the model's
    assert_same(state(loaded), state(source))


class Tied(TwoStreamClassifier):
    """With one parameter under two names, as a few timm models have."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.local_head.bias = self.global_head.bias


@pytest.mark.slow
def test_a_model_with_tied_weights(tmp_path):
    model = Tied("test_resnet", 3, **SIZES)
    with torch.no_grad():
        model.local_head.bias.add_(1)
    model.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict()) - 1
    loaded = Tied.from_pretrained(tmp_path, num_patches=2)
    assert_same(state(loaded), state(model))
    assert loaded.local_head.bias is loaded.global_head.bias
    apart = TwoStreamClassifier.from_pretrained(tmp_path)
    assert_same(state(apart), state(model))


def test_loading_in_inference_mode_gives_a_model_that_trains(folder):
    with torch.inference_mode():
        loaded = TwoStreamClassifier.from_pretrained(folder)
    assert not any(parameter.is_inference() for parameter in loaded.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"num_classes": 7}, None),
        ({"class_names": ["p", "q"]}, ("p", "q")),
        ({"num_classes": 2, "class_names": ["p", "q"]}, ("p", "q")),
    ],
)
def test_other_classes_renew_the_classifiers_alone(folder, model, overrides, names):
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="are new") as caught:
        loaded = TwoStreamClassifier.from_pretrained(folder, **overrides)
    count = loaded.num_classes
    assert [str(warning.message) for warning in caught] == [
        f"The classifiers of both streams are new: {count} classes instead of the 3 in "
        f"{folder / 'model.safetensors'}. Train them before you predict."
    ]
    assert Path(caught[0].filename).name == "test_loading.py"
    assert loaded.class_names == names
    found, expected = state(loaded), state(model)
    heads = {name for name in expected if name.startswith(("global_head", "local_head"))}
    assert len(heads) == 4
    for name in expected.keys() - heads:
        assert torch.equal(found[name], expected[name])
    # As a new model's: drawn from the caller's random state, normal with deviation 0.01, bias 0.
    torch.manual_seed(5)
    for head in (loaded.global_head, loaded.local_head):
        fresh = torch.nn.Linear(head.in_features, count)
        torch.nn.init.normal_(fresh.weight, std=0.01)
        assert torch.equal(head.weight, fresh.weight)
        assert head.bias.abs().max() == 0
    again = make(num_classes=count)
    again.load_state_dict(found)


def test_overrides_keep_how_pictures_are_prepared(folder):
    config = json.loads((folder / "config.json").read_text())
    config["backbone_kwargs"]["pretrained_cfg_overlay"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = TwoStreamClassifier.from_pretrained(folder, backbone_kwargs={"drop_path_rate": 0.1})
    assert tuple(loaded.data_config["mean"]) == (0.1, 0.2, 0.3)
    overlay = {"pretrained_cfg_overlay": {"mean": (0.4, 0.4, 0.4)}}
    loaded = TwoStreamClassifier.from_pretrained(folder, backbone_kwargs=overlay)
    assert tuple(loaded.data_config["mean"]) == (0.4, 0.4, 0.4)


def test_overrides_that_change_no_weight(folder, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = TwoStreamClassifier.from_pretrained(
            folder,
            num_classes=3,
            fusion_weight=2.0,
            num_patches=4,
            drop_rate=0.5,
            num_steps=7,
            backbone_kwargs={"drop_path_rate": 0.1},
        )
        renamed = TwoStreamClassifier.from_pretrained(folder, class_names=["x", "y", "z"])
    assert_same(state(loaded), state(model))
    assert (loaded.fusion_weight, loaded.num_patches, loaded.drop.p) == (2.0, 4, 0.5)
    assert (loaded.attention.num_steps, loaded.class_names) == (7, ("a", "b", "c"))
    assert loaded.data_config == model.data_config
    assert_same(state(renamed), state(model))
    assert renamed.class_names == ("x", "y", "z")


def test_overrides_that_cannot_be(folder):
    def load(**overrides):
        return lambda: TwoStreamClassifier.from_pretrained(folder, **overrides)

    assert refusal(load(hidden_size=32), where=folder) == (
        "Expected `attention.cells.0.weight_ih` in X/model.safetensors to have shape (128, 96), "
        "but got (64, 96). Build the model as the saved one was built."
    )
    assert refusal(load(num_layers=3), where=folder) == (
        "Expected X/model.safetensors to hold `attention.cells.2.weight_ih`, but it is missing "
        "(and 3 more). Build the model as the saved one was built."
    )
    assert refusal(load(num_layers=1), where=folder) == (
        "Expected X/model.safetensors to hold only what the model has, but got "
        "`attention.cells.1.bias_hh` (and 3 more). Build the model as the saved one was built."
    )
    assert refusal(load(pretrained=True)) == (
        "Expected `pretrained` to be False: all weights come from the folder."
    )
    assert refusal(load(hiden_size=32), TypeError) == (
        "Expected an argument of TwoStreamClassifier, but got `hiden_size`."
    )


def test_what_is_not_there(tmp_path, folder):
    missing = tmp_path / "nowhere"
    assert refusal(lambda: TwoStreamClassifier.from_pretrained(missing), FileNotFoundError) == (
        f"Expected a folder or a repository called '{missing}', but there is no such folder, and "
        "no repository can be called that."
    )
    assert refusal(lambda: TwoStreamClassifier.from_pretrained(None), TypeError) == (
        "Expected the name of a folder or of a repository, but got NoneType."
    )
    weights = folder / "model.safetensors"
    assert refusal(lambda: TwoStreamClassifier.from_pretrained(weights), where=weights) == (
        "Expected a folder at X, but it is a file. Load weights alone with "
        "recurrent_attention.load_checkpoint(model, path)."
    )
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        assert refusal(
            lambda: TwoStreamClassifier.from_pretrained(folder), FileNotFoundError, folder
        ) == (f"Expected {name} in the folder X, but there is none. save_pretrained writes it.")


@pytest.fixture
def hub(monkeypatch):
    with hub_on_loopback(monkeypatch) as hub:
        yield hub


@pytest.mark.slow
def test_options_of_the_mixin(folder, model, hub, tmp_path):
    hub.add("someone/birds", folder)
    hub.add("someone/birds", folder, revision="v2")
    options = {"cache_dir": tmp_path / "cache", "token": "hf_secret"}
    loaded = TwoStreamClassifier.from_pretrained("someone/birds", revision="v2", **options)
    assert_same(state(loaded), state(model))
    assert "Bearer hf_secret" in hub.tokens
    files = {request.split()[1] for request in hub.requests if "/resolve/" in request}
    assert files == {
        "/someone/birds/resolve/v2/config.json",
        "/someone/birds/resolve/v2/model.safetensors",
    }

    def downloads(**more):
        hub.requests.clear()
        TwoStreamClassifier.from_pretrained("someone/birds", revision="v2", **options, **more)
        return [request for request in hub.requests if request.startswith("GET")]

    assert downloads() == []
    assert len(downloads(force_download=True)) == 2
    assert downloads(local_files_only=True) == []
    assert hub.requests == []
    meta = TwoStreamClassifier.from_pretrained(folder, map_location=torch.device("meta"))
    assert meta.global_head.weight.is_meta


def test_what_a_repository_lacks(folder, hub, tmp_path):
    (folder / "model.safetensors").unlink()
    hub.add("someone/birds", folder)

    def load(name, **options):
        return lambda: TwoStreamClassifier.from_pretrained(name, cache_dir=tmp_path, **options)

    assert refusal(load("someone/birds"), FileNotFoundError) == (
        "Expected a folder or a repository called 'someone/birds', but that repository has no "
        "model.safetensors."
    )
    assert refusal(load("someone/brids"), FileNotFoundError) == (
        "Expected a folder or a repository called 'someone/brids', but there is neither, or it is "
        "private. Pass `token` if it is."
    )
    assert refusal(load("birds", local_files_only=True), FileNotFoundError) == (
        "Expected a folder or a repository called 'birds', but there is no such folder, and "
        "config.json is neither in the cache nor to be had now."
    )


def test_not_strict(folder, model):
    rewrite(folder / "model.safetensors", **{"attention.scorer.bias": None, "more": torch.ones(1)})
    loaded = TwoStreamClassifier.from_pretrained(folder, strict=False)
    assert loaded.attention.scorer.bias.isfinite().all()
    assert_same(state(loaded), state(model), but=["attention.scorer.bias"])


def damages(whole):
    header = int.from_bytes(whole[:8], "little")
    return {
        "empty": b"",
        "header cut": whole[: header // 2],
        "data cut": whole[:-100],
        "too long": whole + b"x",
        "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        "no JSON": whole[:8] + b"?" * header + whole[8 + header :],
        "a pickle": pickle.dumps({"a": 1}),
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    }


def test_damaged_safetensors(folder, tmp_path):
    path = folder / "model.safetensors"
    for kind, content in damages(path.read_bytes()).items():
        path.unlink()
        path.write_bytes(content)
        message = refusal(lambda: TwoStreamClassifier.from_pretrained(folder), where=path)
        assert message.startswith("Expected X to be a safetensors file, but got: "), kind


NAME, BUILD = "attention.scorer.weight", "Build the model as the saved one was built."
FLOATS = f"`{NAME}` in X to be of 16 to 64 bits, floating point, but got torch."
WRONG = [
    ({NAME: None}, f"X to hold `{NAME}`, but it is missing. {BUILD}"),
    ({"more": torch.ones(1)}, f"X to hold only what the model has, but got `more`. {BUILD}"),
    ({NAME: torch.ones(16)}, f"`{NAME}` in X to have shape (1, 16), but got (16,). {BUILD}"),
    ({NAME: torch.ones(1, 16, dtype=torch.int64)}, f"{FLOATS}int64."),
    ({NAME: torch.ones(1, 16).to(torch.float8_e4m3fn)}, f"{FLOATS}float8_e4m3fn."),
    (
        {"global_head.weight": torch.ones(4, 96)},
        f"`global_head.weight` in X to have shape (3, 96), but got (4, 96). {BUILD}",
    ),
    ({"fc.bias": torch.ones(3)}, "X to name each weight once, but two names mean the same."),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_weights_are_named_and_nothing_is_loaded(folder, changes, message):
    path = folder / "model.safetensors"
    rewrite(path, **changes)
    message = "Expected " + message
    assert refusal(lambda: TwoStreamClassifier.from_pretrained(folder), where=path) == message
    target = make_once()
    before, random = state(target), torch.get_rng_state()
    assert refusal(lambda: load_checkpoint(target, path), where=path) == message
    assert_same(state(target), before)
    pickled = path.with_suffix(".pth")
    torch.save(load_file(path), pickled)
    assert refusal(lambda: load_checkpoint(target, pickled), where=pickled) == message
    assert_same(state(target), before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_checkpoints_of_every_form(model, tmp_path, suffix, prefix):
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    path = tmp_path / f"last{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save({"epoch": 3, "args": Namespace(lr=0.1), "state_dict": weights}, path)
    target = make(seed=1).train()
    modes, random = [m.training for m in target.modules()], torch.get_rng_state()
    parameters = list(target.parameters())
    load_checkpoint(target, str(path))
    assert_same(state(target), state(model))
    assert [m.training for m in target.modules()] == modes
    assert all(a is b for a, b in zip(target.parameters(), parameters, strict=True))
    assert all(parameter.grad is None for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("legacy", [False, True])
def test_where_a_checkpoint_keeps_its_weights(tmp_path, legacy):
    path = tmp_path / "last.pth"
    keys = ("state_dict_ema", "model_ema", "state_dict", "model")
    weights = {key: {key: torch.full((2,), float(i))} for i, key in enumerate(keys)}
    for i, key in enumerate(keys):
        content = {name: weights[name] for name in reversed(keys[i:])}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        assert list(read_weights(path)) == [key]
        assert list(read_weights(path, use_ema=False)) == [keys[max(i, 2)]]
    torch.save({"a": torch.ones(2), "state_dict_ema": None, "state_dict": weights["model"]}, path)
    assert list(read_weights(path)) == ["model"]
    torch.save(weights["model"]["model"].new_ones(1), path)
    assert refusal(lambda: read_weights(path), where=path) == (
        "Expected X to hold a state dict, but got Tensor. Save model.state_dict()."
    )


def test_the_authors_checkpoint_with_other_classes(tmp_path):
    torch.manual_seed(1)
    theirs = AuthorsNetwork(num_classes=4)
    torch.save({f"module.{k}": v for k, v in theirs.state_dict().items()}, tmp_path / "authors.pth")
    sizes = {"image_size": 64, "patch_size": 32, "num_steps": 2}
    with torch.random.fork_rng(), torch.device("meta"):
        ours = TwoStreamClassifier("vgg19", 6, global_head="conv", **sizes)
    ours = ours.to_empty(device="cpu")
    with pytest.warns(UserWarning, match="are new") as caught:
        load_checkpoint(ours, tmp_path / "authors.pth")
    assert [str(warning.message) for warning in caught] == [
        "The classifiers of both streams are new: 6 classes instead of the 4 in "
        f"{tmp_path / 'authors.pth'}. Train them before you predict."
    ]
    assert Path(caught[0].filename).name == "test_loading.py"
    assert torch.equal(ours.global_convs[2].weight, theirs.add_on[2].weight)
    assert torch.equal(ours.attention.cells[1].weight_hh, theirs.lstm.weight_hh_l1)
    for head in (ours.global_head, ours.local_head):
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)


class Payload:
    """A pickle of it creates a file when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    tmp_path, monkeypatch, zipped, variable
):
    if variable:
        monkeypatch.setenv(variable, "1")
    made, path = tmp_path / "made", tmp_path / "evil.pth"
    model = make()
    content = {"state_dict": model.state_dict(), "more": Payload(str(made))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    before = state(model)
    message = refusal(lambda: load_checkpoint(model, path), where=path)
    assert message == (
        "Expected X to hold weights alone, but it asks for io.open, which could run code, and was "
        "not run. Save the state dict by itself."
    )
    assert not made.exists()
    assert_same(state(model), before)
    torch.load(path, weights_only=False)  # the same file does run where it is trusted
    assert made.exists()


@pytest.mark.parametrize("system", [os.system, eval, __import__, getattr])
def test_raw_pickles_that_run_code(tmp_path, system):
    made, path = tmp_path / "made", tmp_path / "evil.pth"
    call = {os.system: f"touch {made}", eval: f"open({str(made)!r}, 'w')"}.get(system, "os")

    class Evil:
        def __reduce__(self):
            return system, (call,)

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Evil(), protocol))
        message = refusal(lambda: load_checkpoint(make_once(), path), where=path)
        assert message.startswith("Expected X to ")
        assert "In PyTorch" not in message
    assert not made.exists()


class Bomb:
    def __reduce__(self):
        return bytearray, (10**12,)


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "last.pth"
    whole = path.with_name("whole")
    torch.save({"a": torch.zeros(1000)}, whole)
    legacy = path.with_name("legacy")
    torch.save({"a": torch.zeros(1000)}, legacy, _use_new_zipfile_serialization=False)
    contents = {
        "empty": b"",
        "cut": whole.read_bytes()[:-50],
        "cut in the middle": whole.read_bytes()[:900],
        "legacy cut": legacy.read_bytes()[:-50],
        "text": b"hello\n",
        "zeros": bytes(1000),
        "JSON": json.dumps({"a": 1}).encode(),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a zip": b"PK\x05\x06" + bytes(18),
        "safetensors": (2).to_bytes(8, "little") + b"{}",
    }
    for kind, content in contents.items():
        path.write_bytes(content)
        message = refusal(lambda: load_checkpoint(make_once(), path), where=path)
        assert message.startswith("Expected X to be a checkpoint of torch.save, but got: "), kind
        assert "In PyTorch" not in message
    unpacked = (
        "Expected X to be as torch.save writes it, but it unpacks to more than it holds. Save the "
        "state dict by itself."
    )
    torch.save({"a": torch.zeros(10**6)}, path)
    compressed(path)
    assert refusal(lambda: load_checkpoint(make_once(), path), where=path) == unpacked
    for zipped in (True, False):
        torch.save({"a": Bomb()}, path, _use_new_zipfile_serialization=zipped)
        assert refusal(lambda: load_checkpoint(make_once(), path), where=path) == unpacked
    assert refusal(
        lambda: load_checkpoint(make_once(), tmp_path / "no"), FileNotFoundError, tmp_path
    ) == ("Expected a checkpoint at X/no, but there is no file.")
    assert refusal(lambda: load_checkpoint(torch.nn.Linear(1, 1), path), TypeError) == (
        "Expected `model` to be a TwoStreamClassifier, but got Linear. Pass what it wraps: "
        "model.module, model._orig_mod."
    )


@pytest.mark.parametrize(
    "value",
    [
        3,
        torch.ones(2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        [torch.ones(2)],
        None,
    ],
)
def test_state_dicts_hold_dense_tensors_alone(tmp_path, value):
    torch.save({"a": torch.ones(2), "b": value}, tmp_path / "last.pth")
    message = refusal(lambda: load_checkpoint(make_once(), tmp_path / "last.pth"), where=tmp_path)
    assert message == (
        "Expected the state dict in X/last.pth to map names to dense tensors, but got "
        f"{type(value).__name__} under 'b'. Save model.state_dict()."
    )


def backbone_folder(folder, **config):
    folder.mkdir()
    model_args = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    config = {"architecture": "test_vit", "model_args": model_args, "pretrained_cfg": {}} | config
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_a_backbone_from_a_folder_that_is_gone(tmp_path):
    look = {"mean": [0.1] * 3, "std": [0.2] * 3, "fixed_input_size": True}
    first = backbone_folder(tmp_path / "first", pretrained_cfg=look)
    second = backbone_folder(
        tmp_path / "second", architecture="test_resnet", model_args={"output_stride": 16}
    )
    model = make(backbone=first, local_backbone=second)
    model.save_pretrained(tmp_path / "model")
    for name in ("first", "second"):
        (tmp_path / name / "config.json").unlink()
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model")
    assert_same(state(loaded), state(model))
    assert len(loaded.global_backbone.model.blocks) == 2
    assert loaded.local_backbone.map_size == model.local_backbone.map_size
    assert loaded.data_config == model.data_config
    assert loaded.global_backbone.fixed_size == model.global_backbone.fixed_size
    loaded.save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "config.json").read_text()
    assert json.loads(again)["backbone"] == "test_vit"
    images, patches = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images, patches).logits, model(images, patches).logits)


@pytest.mark.slow
def test_a_folder_has_the_last_word_on_sizes_that_are_fixed(tmp_path):
    """The architecture by itself says that its size is fixed, and the folder that it is not."""
    name = backbone_folder(tmp_path / "backbone", architecture="test_maxvit", model_args={})
    backbone = FeatureBackbone(name, image_size=64)
    plain, arguments = backbone.architecture()
    rebuilt = FeatureBackbone(plain, image_size=64, **arguments)
    assert (backbone.fixed_size, rebuilt.fixed_size) == (False, False)
    assert FeatureBackbone(plain, image_size=64).fixed_size


def test_a_backbone_from_a_repository_that_is_gone(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    backbone_folder(tmp_path / "backbone")
    hub.add("someone/tiny", tmp_path / "backbone")
    model = make(
        backbone="hf-hub:someone/tiny", backbone_kwargs={"cache_dir": str(tmp_path / "cache")}
    )
    model.save_pretrained(tmp_path / "model")
    hub.repositories.clear()
    hub.requests.clear()
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model")
    assert hub.requests == []
    assert_same(state(loaded), state(model))


# Files of others


class Wrapped(torch.nn.Module):
    """As a LightningModule holds a model, beside other things."""

    def __init__(self, model):
        super().__init__()
        self.net = model
        self.metric = torch.nn.Linear(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "saved",
    [
        pytest.param(lambda m: AveragedModel(m).state_dict(), id="averaged"),
        pytest.param(lambda m: AveragedModel(torch.compile(m)).state_dict(), id="and compiled"),
        pytest.param(lambda m: {"state_dict": Wrapped(m).state_dict(), "epoch": 3}, id="lightning"),
        pytest.param(
            lambda m: {"model_state_dict": m.state_dict(), "optimizer_state_dict": {}}, id="by hand"
        ),
        pytest.param(lambda m: {"ema": m.state_dict(), "model": {"x": torch.ones(1)}}, id="ema"),
        pytest.param(lambda m: {"model": "test_resnet", "net": m.state_dict()}, id="a name"),
    ],
)
def test_checkpoints_of_others(tmp_path, saved):
    model, other = make(), make()
    with torch.no_grad():
        model.local_head.weight.add_(1)
    torch.save(saved(model), tmp_path / "last.ckpt")
    load_checkpoint(other, tmp_path / "last.ckpt")
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_state_dicts_of_others():
    model, other = make(), make()
    with torch.no_grad():
        model.local_head.weight.add_(1)
    other.load_state_dict(AveragedModel(model).state_dict())
    assert torch.equal(other.local_head.weight, model.local_head.weight)
    other = make()
    other.load_state_dict(Wrapped(model).state_dict())
    assert torch.equal(other.local_head.weight, model.local_head.weight)


def test_a_file_that_holds_something_else_is_described(tmp_path):
    torch.save({"encoder.\x1b[2J": torch.ones(1), "decoder": torch.ones(1)}, tmp_path / "last.pth")
    message = refusal(lambda: load_checkpoint(make_once(), tmp_path / "last.pth"), where=tmp_path)
    assert message.endswith(
        " Build the model as the saved one was built. The file holds 2 other entries, such as "
        r"`encoder.\x1b[2J`."
    )


def test_the_path_of_a_fine_tuned_timm_model(tmp_path):
    fine_tuned = timm.create_model("test_resnet", num_classes=5)
    torch.save(fine_tuned.state_dict(), tmp_path / "fine.pth")
    kwargs = {"checkpoint_path": str(tmp_path / "fine.pth")}
    sizes = {"image_size": 64, "patch_size": 32}
    model = TwoStreamClassifier("test_resnet", 2, backbone_kwargs=kwargs, **sizes)
    for backbone in (model.global_backbone, model.local_backbone):
        for name, value in backbone.model.state_dict().items():
            assert torch.equal(value, fine_tuned.state_dict()[name]), name
    model.save_pretrained(tmp_path / "model")
    assert "checkpoint_path" not in (tmp_path / "model" / "config.json").read_text()
    torch.save({"other": torch.ones(1)}, tmp_path / "fine.pth")
    with pytest.raises(ValueError) as caught:
        TwoStreamClassifier("test_resnet", 2, backbone_kwargs=kwargs, **sizes)
    assert str(caught.value).startswith(
        f"Expected {tmp_path / 'fine.pth'} to hold the weights of 'test_resnet', but "
    )
    assert str(caught.value).endswith(", such as conv1.0.weight. Is it another model's?")
    with pytest.raises(FileNotFoundError) as caught:
        TwoStreamClassifier("test_resnet", 2, backbone_kwargs={"checkpoint_path": "gone.pth"})
    assert str(caught.value) == "Expected weights at gone.pth, but there is no file."


# What a pickle would take


def pickled(*ops):
    return b"\x80\x02" + b"".join(ops) + b"."


def whole_number(value):
    data = value.to_bytes((value.bit_length() + 8) // 8, "little")
    return b"\x8a" + bytes([len(data)]) + data


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


HEX = b"c_codecs\nencode\nq\x000" + b"h\x00" + text(b"abcd") + text(b"utf-8") + b"\x86Rq\x010"
DOUBLED = b"".join(
    b"h\x00h" + bytes([n]) + text(b"hex") + b"\x86Rq" + bytes([n + 1]) + b"0" for n in range(1, 31)
)
LONG_LIST = b"](" + b"K\x01" * 300_000 + b"eq\x000"
BOMBS = {
    "bytes": pickled(b"c__builtin__\nbytearray\n", whole_number(6 * 10**9), b"\x85R"),
    "array": pickled(b"ctorch\nTensor\n", whole_number(2 * 10**9), b"\x85R"),
    "array of two axes": pickled(
        b"ctorch\nFloatTensor\n", whole_number(10**5), whole_number(10**5), b"\x86R"
    ),
    "counter": pickled(b"ccollections\nCounter\n", whole_number(10**10), b"\x85R"),
    "text that doubles": pickled(HEX, DOUBLED, b"h\x1f"),
    "a set made many times": pickled(
        LONG_LIST, b"c__builtin__\nset\nq\x010](", b"h\x01h\x00\x85R" * 100, b"e"
    ),
    "storages that are not there": pickled(
        b"](", b"(", text(b"storage"), b"ctorch\nFloatStorage\n", text(b"0"), text(b"cpu"),
        whole_number(10**9), b"tQ", b"e",
    ),
}  # fmt: skip


def zipped(path, data, packed=False):
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/data.pkl"), data, kind)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")
        archive.writestr("a/.format_version", b"1")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "packed zip", "old format"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_take_far_more_than_the_file_has_is_not_read(
    tmp_path, monkeypatch, bomb, form
):
    path = tmp_path / "x.pth"
    if form == "old format":
        path.write_bytes(BOMBS[bomb])
    else:
        zipped(path, BOMBS[bomb], packed=form == "packed zip")

    def load(*_, **__):
        raise AssertionError("it was read")

    monkeypatch.setattr(torch, "load", load)
    message = refusal(lambda: load_checkpoint(make_once(), path), where=tmp_path)
    assert message == (
        "Expected X/x.pth to be as torch.save writes it, but it unpacks to more than it holds. "
        "Save the state dict by itself."
    )


@pytest.mark.slow
@pytest.mark.parametrize("zipped_format", [True, False])
def test_what_torch_writes_is_within_the_budget(tmp_path, zipped_format):
    """A training checkpoint with all that people put into one."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    optimizer.step()
    shared = torch.ones(1000)
    saved = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, names={"a", "b"}, text="x" * 10_000, data=b"y" * 1000),
        "half": [torch.ones(3).bfloat16(), torch.ones(3).half(), torch.tensor(1)],
        "shared": [shared[:5], shared[5:]],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "shape": torch.Size([2, 3]),
        "numbers": [1, 2.5, 10**30, 1 + 2j, True, None],
        "ordered": collections.OrderedDict((str(n), n) for n in range(100)),
    }
    path = tmp_path / "last.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped_format)
    other = make()
    load_checkpoint(other, path)
    assert torch.equal(other.local_head.weight, model.local_head.weight)


@pytest.mark.skipif(os.name != "posix", reason="pipes lie in folders on POSIX alone")
def test_pipes_are_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pth")
    message = refusal(lambda: load_checkpoint(make_once(), tmp_path / "x.pth"), where=tmp_path)
    assert message == "Expected a checkpoint at X/x.pth, but it is a pipe."
    make_once().save_pretrained(tmp_path / "model")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "model" / name).unlink()
        os.mkfifo(tmp_path / "model" / name)
        message = refusal(
            lambda: TwoStreamClassifier.from_pretrained(tmp_path / "model"), where=tmp_path
        )
        assert message == f"Expected {name} at X/model/{name}, but it is a pipe."
