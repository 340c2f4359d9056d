"""Exported with graph="predict", a model answers through onnxruntime as it does in torch."""

import json
import re

import pytest
import torch
from helpers.command import run
from helpers.models import make, photo
from torch import nn

from recurrent_attention import export_onnx
from recurrent_attention.export import OnnxClassifier
from recurrent_attention.export.graph import session_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(OLD, reason="this torch is too old for export_onnx"),
]

KINDS = {  # a local stream that looks in sequence, the paper's, and one of another kind and size
    "anytime": {
        "patch_weighting": "anytime",
        "num_patches": 4,
        "class_names": ["auk", "emu", "owl", "tit", "wren"],
        "temperatures": [1.5, 1.2],
        "fusion_weight": 2.0,
    },
    "paper": {"num_patches": 2, "global_head": "conv"},
    "two kinds": {"local_backbone": "test_vit", "patch_weighting": "recurrent", "num_patches": 3},
}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """A model with answers that differ, and its file."""
    model = make(**KINDS[request.param])
    for head in (model.global_head, model.local_head):
        nn.init.normal_(head.weight, std=1.0)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path, graph="predict")
    return model, path


def assert_same(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.class_names == theirs.class_names, (ours, theirs)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
        for name in ("boxes", "global_class", "local_class", "looks", "indices"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_it_answers_as_the_model(exported):
    model, path = exported
    loaded = OnnxClassifier(path)
    pictures = [photo(seed, size=(90 + seed, 70)) for seed in range(5)]
    wanted = model.predict(pictures)
    assert len({answer.class_names for answer in wanted}) > 1
    assert_same(loaded.predict(pictures), wanted)
    assert_same([loaded.predict(pictures[0], looks=1)], [model.predict(pictures[0], looks=1)])
    boxes = [[10, 10, 50, 40], [0, 0, 90, 70]]
    assert_same(
        [loaded.predict(pictures[0], boxes=boxes, top_k=2)],
        [model.predict(pictures[0], boxes=boxes, top_k=2)],
    )
    for name in ("class_names", "num_classes", "image_size", "patch_size"):
        assert getattr(loaded, name) == getattr(model, name)


def test_it_stops_when_it_is_sure(exported):
    model, path = exported
    pictures = [photo(seed) for seed in range(6)]
    if model.patch_weighting != "anytime":
        with pytest.raises(ValueError):
            OnnxClassifier(path).predict(pictures, confidence=0.5)
        return
    shares = sorted(share for answer in model.predict(pictures) for _, share in answer.after)
    enough = shares[len(shares) // 2] + 1e-3
    wanted = model.predict(pictures, confidence=enough)
    assert len({answer.looks for answer in wanted}) > 1
    assert_same(OnnxClassifier(path).predict(pictures, confidence=enough), wanted)


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="^Expected `fusion_weight` in .* to be a number in"):
        export_onnx(make(fusion_weight=2e6), tmp_path / "model.onnx", graph="predict")
    assert not list(tmp_path.iterdir())


def test_pictures_of_another_size_than_was_exported(exported):
    model, path = exported
    loaded, images = OnnxClassifier(path), torch.randn(3, model.image_size, model.image_size)
    assert_same([loaded.predict(images)], [model.predict(images)])
    with pytest.raises(ValueError) as caught:
        loaded.predict(torch.randn(3, 96, 96))
    assert str(caught.value).startswith("Expected `images` ")


def test_the_file_is_an_onnx_file_like_any_other(exported):
    import onnxruntime

    model, path = exported
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    inputs = {entry.name for entry in session.get_inputs()}
    finer = {"finer"} if model.proposal_size != model.image_size else set()
    assert inputs == {"images", "patches", *finer}


def test_position_embeddings_are_resized_as_torch_does(tmp_path):
    model = make(backbone="test_vit", image_size=160)
    assert model.proposal_size > model.image_size
    nn.init.normal_(model.global_backbone.model.pos_embed)  # untrained ones are next to nothing
    export_onnx(model, tmp_path / "model.onnx", graph="predict")
    pictures = [photo(seed) for seed in range(3)]
    assert_same(OnnxClassifier(tmp_path / "model.onnx").predict(pictures), model.predict(pictures))


def test_the_command_answers_as_with_the_folder(exported, tmp_path):
    model, path = exported
    model.save_pretrained(tmp_path / "model")
    photo().save(tmp_path / "bird.png")
    (tmp_path / "bad.png").write_text("no picture")
    files = [str(tmp_path / "bird.png"), str(tmp_path / "bad.png")]
    wanted = run("predict", "--quiet", str(tmp_path / "model"), *files)
    found = run("predict", "--quiet", str(path), *files)
    assert wanted.exit_code == found.exit_code == 1, found.output
    numbers = re.compile(r"\d+\.\d")
    assert numbers.sub("", found.output) == numbers.sub("", wanted.output)
    assert "Expected" in found.output


def test_a_file_is_for_the_cpu_in_float32(exported):
    _, path = exported
    refused = run("predict", str(path), str(path), "--precision", "bf16")
    assert refused.exit_code == 2
    assert "Expected --device cpu and --precision fp32 for the ONNX file " in refused.stderr


def changed(path, folder, change):
    proto = onnx.load(path)
    change(proto)
    (folder / "changed.onnx").write_bytes(proto.SerializeToString())
    return folder / "changed.onnx"


def set_entry(name, value):
    def change(proto):
        for entry in proto.metadata_props:
            if entry.key == name:
                entry.value = value(entry.value)

    return change


def drop_heads(proto):
    kept = [one for one in proto.graph.initializer if one.name != "heads.global_head.bias"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def point_elsewhere(proto):
    tensor = next(one for one in proto.graph.initializer if one.raw_data)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="bait")


def name_backbone(text):
    return json.dumps(json.loads(text) | {"backbone": "hf-hub:someone/bait"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_entry("graph", lambda _: '"whole"'), 'to be an ONNX file of graph="predict", but got'),
        (set_entry("graph", lambda _: "["), "to be a whole ONNX file of export_onnx, but got: "),
        (set_entry("config", lambda _: "[]"), "`backbone`"),
        (set_entry("config", name_backbone), "to be the plain name of a timm model"),
        (set_entry("cell_offset", lambda _: "7"), "Expected `cell_offset` to be in [-1, 1], but"),
        (drop_heads, "but got: Error(s) in loading state_dict for "),
        (point_elsewhere, "but got: weights in another file."),
    ],
)
def test_a_file_of_something_else_is_refused_in_a_sentence(exported, tmp_path, change, reason):
    with pytest.raises(ValueError) as caught:
        OnnxClassifier(changed(exported[1], tmp_path, change))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_half_a_file(exported, tmp_path):
    with pytest.raises(FileNotFoundError):
        OnnxClassifier(tmp_path / "none.onnx")
    half = tmp_path / "half.onnx"
    half.write_bytes(exported[1].read_bytes()[:-1000])
    with pytest.raises(ValueError) as caught:
        OnnxClassifier(half)
    assert str(caught.value).startswith(f"Expected {half} to be a whole ONNX file")


def test_onnxruntime_prints_nothing_of_a_file_that_it_refuses(exported, capfd):
    damaged = exported[1].read_bytes().replace(b"Conv", b"Co\xdcv").replace(b"Gemm", b"Ge\xdcm")
    with pytest.raises(ValueError):
        session_of(damaged)
    assert capfd.readouterr() == ("", "")
