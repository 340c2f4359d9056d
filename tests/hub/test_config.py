"""config.json from a stranger: what is refused, in which words, and that nothing was touched."""

import copy
import inspect
import json
import re
import sys

import pytest
import timm
import torch
from huggingface_hub import PyTorchModelHubMixin

from recurrent_attention import TwoStreamClassifier
from recurrent_attention._errors import ArgumentError
from recurrent_attention.hub.config import MOST_BYTES, read_config
from recurrent_attention.hub.config_checks import MOST

KEYS = [
    *("backbone", "backbone_kwargs", "local_backbone", "class_names", "drop_rate", "fusion_weight"),
    *("global_head", "patch_weighting", *MOST),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    sizes = {"image_size": 64, "patch_size": 32, "hidden_size": 16, "num_steps": 3}
    TwoStreamClassifier("test_resnet", 3, class_names=["a", "b", "c"], **sizes).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(saved / "model.safetensors")
    (tmp_path / "model" / "config.json").write_bytes((saved / "config.json").read_bytes())
    return tmp_path / "model"


def change(folder, path, value):
    """Set config[a][b] for the path "a.b"."""
    config = inside = json.loads((folder / "config.json").read_text())
    *parents, last = path.split(".")
    for name in parents:
        inside[name] = inside.get(name) or {}
        inside = inside[name]
    inside[last] = copy.deepcopy(value)
    # As a number that JSON can write and no float can hold.
    (folder / "config.json").write_text(json.dumps(config).replace("Infinity", "1e999"))


def refusal(folder, **overrides):
    with pytest.raises(ValueError) as caught:
        TwoStreamClassifier.from_pretrained(folder, **overrides)
    assert type(caught.value) in (ValueError, ArgumentError)
    return str(caught.value).replace(str(folder), "FOLDER")


class Watch:
    """What Python opened and whom it asked while it was on; audit hooks cannot be taken off."""

    on, events = False, ()

    def __call__(self, event, arguments):
        if self.on and (
            event == "open" or event.startswith(("socket.", "subprocess.", "os.system"))
        ):
            self.events.append((event, str(arguments[0])))


@pytest.fixture(scope="module")
def watch():
    watch = Watch()
    sys.addaudithook(watch)
    return watch


@pytest.fixture
def watched(watch):
    watch.events = []
    watch.on = True
    yield watch.events
    watch.on = False


SOURCES = [
    ("pretrained", True),
    ("backbone_kwargs.pretrained", True),
    ("backbone_kwargs.checkpoint_path", "BAIT"),
    ("backbone_kwargs.cache_dir", "BAIT"),
    ("backbone_kwargs.pretrained_cfg", {"file": "BAIT"}),
    ("backbone_kwargs.pretrained_cfg", "tag"),
    ("backbone_kwargs.pretrained_strict", False),
    ("backbone_kwargs.pretrained_cfg_overlay.file", "BAIT"),
    ("backbone_kwargs.pretrained_cfg_overlay.url", "http://127.0.0.1:9/BAIT"),
    ("backbone_kwargs.pretrained_cfg_overlay.hf_hub_id", "someone/BAIT"),
    ("backbone_kwargs.pretrained_cfg_overlay.source", "local-dir"),
    ("backbone_kwargs.pretrained_cfg_overlay.custom_load", True),
    ("local_backbone_kwargs.checkpoint_path", "BAIT"),
    ("local_backbone_kwargs.pretrained_cfg_overlay.file", "BAIT"),
    ("backbone_kwargs.pruned", True),
    ("backbone_kwargs.block_args", {"checkpoint_path": 1}),
    ("backbone_kwargs.act_layer", "/etc/passwd"),
    ("backbone_kwargs.act_layer", "../BAIT"),
    ("backbone_kwargs.act_layer", "os.system"),
    ("backbone", "hf-hub:someone/BAIT"),
    ("backbone", "hf_hub:someone/BAIT"),
    ("backbone", "local-dir:BAIT"),
    ("backbone", "http://127.0.0.1:9/BAIT"),
    ("backbone", "../BAIT"),
    ("local_backbone", "hf-hub:someone/BAIT"),
    ("local_backbone", "local-dir:BAIT"),
]


@pytest.mark.parametrize(("path", "value"), SOURCES)
def test_nothing_names_a_file_or_a_host(folder, tmp_path, watched, path, value):
    bait = tmp_path / "bait"
    text = json.dumps(value).replace("BAIT", str(bait))
    change(folder, path, json.loads(text))
    watched.clear()
    message = refusal(folder)
    assert "\n" not in message
    assert message.startswith("Expected ")
    assert path.split(".")[-1] in message
    touched = [
        name for event, name in watched if event != "open" or "bait" in name or "prun" in name
    ]
    assert touched == []


def test_the_watch_sees_what_the_plain_mixin_does(folder, tmp_path, watched):
    bait = tmp_path / "bait.pth"
    torch.save({"other": torch.ones(1)}, bait)
    change(folder, "backbone_kwargs.checkpoint_path", str(bait))
    watched.clear()
    with pytest.raises(ValueError, match="missing, such as"):
        PyTorchModelHubMixin.from_pretrained.__func__(TwoStreamClassifier, folder)
    assert ("open", str(bait)) in watched


@pytest.mark.parametrize("value", [10**12, 0, -1, 2.0, True, "5", None, [5], {}, 1e999])
@pytest.mark.parametrize("name", MOST)
def test_sizes(folder, name, value):
    change(folder, name, value)
    hint = f" Pass {name}={value} if you mean it." if value == 10**12 else ""
    assert refusal(folder) == (
        f"Expected `{name}` in FOLDER/config.json to be a whole number in [1, {MOST[name]}], but "
        f"got {value!r}.{hint}"
    )


@pytest.mark.parametrize("value", [True, 5, 1.5, "x/y", ["a", 1], {"a": "/"}, "a\x1b[2J"])
@pytest.mark.parametrize("name", sorted({*KEYS, "local_backbone_kwargs"} - set(MOST)))
def test_wrong_types_and_texts(folder, name, value):
    """Each is wrong for each key but the two that take numbers."""
    if name in ("fusion_weight", "drop_rate") and value in (1.5, 5) and type(value) is not bool:
        value = 1e999
    change(folder, name, value)
    message = refusal(folder)
    assert message.startswith(f"Expected `{name}")
    assert "\n" not in message
    assert "\x1b" not in message


KWARGS, LOOK = "backbone_kwargs", "backbone_kwargs.pretrained_cfg_overlay"
SENTENCES = [
    ("drop_rate", 1.5, "`drop_rate` in FOLDER to be a number in [0, 1], but got 1.5."),
    (
        "nmu_steps",
        3,
        "FOLDER to hold arguments of TwoStreamClassifier only, but got 'nmu_steps'. A newer "
        "version of recurrent-attention may know it.",
    ),
    ("class_names", ["a"], "`class_names` in FOLDER to hold 3 names, but got 1."),
    ("backbone", "test_resne", "`name` to be a timm model, but got 'test_resne'. Did you mean "),
    (
        "backbone",
        "local-dir:x",
        "`backbone` in FOLDER to be the plain name of a timm model, but got 'local-dir:x'. Pass "
        "backbone=... if you trust it.",
    ),
    (
        f"{KWARGS}.depth",
        10**6,
        "`backbone_kwargs['depth']` in FOLDER to be made of words and of numbers up to 65536, but "
        "got 1000000. Pass backbone_kwargs=... if you trust it.",
    ),
    (
        f"{KWARGS}.quux",
        1,
        "FOLDER to describe a model that can be built, but got: ResNet.__init__() got an "
        "unexpected keyword argument 'quux'.",
    ),
    (
        f"{LOOK}.std",
        [0.0],
        "`backbone_kwargs['pretrained_cfg_overlay']['std']` in FOLDER to be a list of numbers in "
        "[1e-06, 1e+06], but got [0.0].",
    ),
    (
        f"{LOOK}.interpolation",
        "x",
        "`interpolation` to be one of nearest, bilinear, bicubic, lanczos, but got 'x'. The file "
        "is FOLDER.",
    ),
    (f"{LOOK}.crop_pct", 0, "`backbone_kwargs['pretrained_cfg_overlay']['crop_pct']` in FOLDER to"),
]


@pytest.mark.parametrize(("path", "value", "message"), SENTENCES)
def test_sentences(folder, path, value, message):
    change(folder, path, value)
    assert refusal(folder).replace("FOLDER/config.json", "FOLDER").startswith(f"Expected {message}")


@pytest.mark.parametrize("name", KEYS)
def test_a_missing_key_can_be_given(folder, name):
    config = json.loads((folder / "config.json").read_text())
    value = config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))
    assert refusal(folder) == (
        f"Expected `{name}` in FOLDER/config.json, but it is missing. Pass {name}=... if you know "
        "it."
    )
    assert name not in read_config(folder / "config.json", [name])
    if name == "num_steps":
        assert TwoStreamClassifier.from_pretrained(folder, **{name: value}).attention.num_steps == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "hold JSON, but got: Expecting value: line 1 column 1 (char 0)."),
        (b"{", "hold JSON, but got: Expecting property name"),
        (b"\xff\xfe", "hold JSON, but got: 'utf-8' codec can't decode byte 0xff"),
        (b"[1, 2]", "hold a JSON object, but got [1, 2]. save_pretrained writes one."),
        (b"null", "hold a JSON object, but got None."),
        (b'"text"', "hold a JSON object, but got 'text'."),
        (b'{"a": NaN}', "hold JSON, but got: NaN, which is no JSON number."),
        (b'{"a": -Infinity}', "hold JSON, but got: -Infinity, which is no JSON number."),
        (b"[" * 100_000, "hold JSON, but got: maximum recursion depth exceeded"),
        (b'{"a": ' + b"9" * 5000 + b"}", "hold JSON, but got: Exceeds the limit"),
        (
            b'{"' + b"k" * 10**6 + b'": 1}',
            "hold arguments of TwoStreamClassifier only, but got 'kkk",
        ),
        (b" " * (MOST_BYTES + 1), f"have at most {MOST_BYTES} bytes, but got {MOST_BYTES + 1}."),
    ],
)
def test_what_is_no_configuration(folder, content, message):
    (folder / "config.json").write_bytes(content)
    got = refusal(folder)
    assert got.startswith(f"Expected FOLDER/config.json to {message}")
    assert "\n" not in got
    assert len(got) < 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [
        ("test_vit", {"depth": 2**16}),
        ("test_vit", {"embed_dim": 2**16, "num_heads": 1}),
        ("test_resnet", {"layers": [2**16] * 4}),
        ("eva_giant_patch14_224", {}),
    ],
)
def test_a_model_much_larger_than_its_weights_is_not_built(folder, backbone, kwargs):
    """In seconds and without its memory; the giant's two streams would take 8 GB."""
    change(folder, "backbone", backbone)
    change(folder, "backbone_kwargs", kwargs)
    assert refusal(folder) == (
        "Expected FOLDER/config.json to describe a model that can be built, but got: one that is "
        "much larger than its file of weights."
    )
    assert torch.nn.modules.module._global_parameter_registration_hooks == {}


def test_what_the_caller_gives_is_trusted(folder):
    change(folder, "num_steps", 10**12)
    change(folder, "backbone", "local-dir:/nowhere")
    change(folder, "backbone_kwargs.depth", 10**12)
    given = {"num_steps": 2000, "backbone": "test_resnet", "backbone_kwargs": {}}
    loaded = TwoStreamClassifier.from_pretrained(folder, **given)
    assert loaded.attention.num_steps == 2000
    change(folder, "backbone_kwargs.pretrained_cfg_overlay.file", "bait")
    assert "['file']" in refusal(folder, **given)


def test_arguments_of_an_architecture_are_kept(tmp_path):
    kwargs = {"depth": 2, "act_layer": "relu", "drop_path_rate": 0.1, "class_token": True}
    sizes = {"image_size": 64, "patch_size": 32, "hidden_size": 16, "num_steps": 3}
    model = TwoStreamClassifier(
        "test_vit", 2, backbone_kwargs=kwargs, local_backbone_kwargs={"depth": 3}, **sizes
    )
    model.save_pretrained(tmp_path)
    loaded = TwoStreamClassifier.from_pretrained(tmp_path)
    assert len(loaded.global_backbone.model.blocks) == 2
    assert len(loaded.local_backbone.model.blocks) == 3
    assert isinstance(loaded.global_backbone.model.blocks[0].mlp.act, torch.nn.ReLU)
    assert loaded.config == model.config


def test_no_argument_changes_where_memory_is_taken(folder):
    """Whatever a class of timm calls its device or dtype, a configuration may not set it."""
    named = set()
    for name in timm.list_models():
        classes = inspect.getmodule(timm.models.model_entrypoint(name))
        for cls in vars(classes).values():
            if inspect.isclass(cls) and issubclass(cls, torch.nn.Module):
                named |= set(inspect.signature(cls).parameters)
    suspects = {name for name in named if re.search("device|dtype|layout$", name)}
    assert {"device", "dtype"} <= suspects
    for name in suspects:
        for key in (name, f"block_kwargs.{name}"):
            path = folder / "config.json"
            config = json.loads(path.read_text())
            top, _, inner = key.partition(".")
            config["backbone_kwargs"][top] = {inner: "cpu"} if inner else "cpu"
            path.write_text(json.dumps(config))
            assert "Expected `backbone_kwargs[" in refusal(folder)
            del config["backbone_kwargs"][top]
            path.write_text(json.dumps(config))
