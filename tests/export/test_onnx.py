"""Compiled, exported and in ONNX, three kinds of backbone answer as in eager torch."""

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import photo
from PIL import Image, ImageDraw
from torch.export import Dim

from recurrent_attention import TwoStreamClassifier, export_onnx
from recurrent_attention.export import onnx as onnx_export
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.ops.cell_offset import measure_cell_offset

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KINDS = {  # a CNN, one whose maps are (b h w c), and a transformer, each as shallow as it can be
    "densenet121": {
        "block_config": (1, 1),
        "growth_rate": 8,
        "pretrained_cfg_overlay": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)},
    },
    "test_mambaout": {"depths": (1, 1), "dims": (16, 32)},
    "test_vit": {"depth": 1},
}
NAMES = ["auk", "emu", "owl", "tit", "wren"]
SCRIPT = Path(__file__).parents[2] / "examples" / "run_onnx.py"


def classifier(backbone="densenet121", **settings):
    """A small model whose logits are about 1, so that 1e-4 of them says something."""
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        backbone,
        len(NAMES),
        class_names=NAMES,
        **{
            "backbone_kwargs": KINDS.get(backbone),
            "image_size": 64,
            "patch_size": 32,
            "hidden_size": 16,
            "num_steps": 2,
            "num_layers": 1,
            "num_patches": 2,
            **settings,
        },
    )
    for head in (model.global_head, model.local_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


def inputs(batch, patches=None, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, 64, 64, generator=generator)
    if patches is None:
        return (images,)
    return images, torch.randn(batch, patches, 3, 32, 32, generator=generator)


def assert_same(found, wanted):
    found = [tensor for tensor in found if tensor is not None]
    wanted = [tensor for tensor in wanted if tensor is not None]
    assert len(found) == len(wanted) >= 5
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def forget_compiled_graphs():
    torch._dynamo.reset()


# --- torch.compile ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [
        ("densenet121", [(2, 3), (3, 2)]),
        ("test_mambaout", [(2,)]),  # (b,): without patches
        ("test_vit", [(2,)]),
    ],
)
def test_compiled_in_eval_mode(backbone, sizes):
    model = classifier(backbone)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    with torch.no_grad():
        for size in sizes:
            assert_same(compiled(*inputs(*size)), model(*inputs(*size)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "patches"), [("densenet121", None), ("test_mambaout", 2), ("test_vit", 2)]
)
def test_compiled_in_training_mode(backbone, patches):
    model = classifier(backbone).train()
    twin = copy.deepcopy(model)
    given = inputs(2, patches)
    found = torch.compile(twin, fullgraph=True, backend="aot_eager")(*given)
    wanted = model(*given)
    assert_same(found, wanted)
    for output in (found, wanted):
        output.logits.square().sum().backward()
    # Of some weights the gradient is 0 but for rounding; eager, the LSTM is one call.
    largest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    for (name, ours), theirs in zip(twin.named_parameters(), model.parameters(), strict=True):
        assert ours.grad is not None or theirs.grad is None, name
        if theirs.grad is not None:
            least = 1e-4 * float(theirs.grad.abs().max()) + 1e-6 * largest
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=least)


@pytest.mark.slow
def test_a_compiled_graph_is_not_used_for_a_model_whose_cells_look_elsewhere():
    """The offset is a constant of the graph, and layers of the same types share a graph."""
    found = []
    for offset in (-0.5, 0.5):
        model = classifier(num_patches=1)
        model.measured_offsets.known[model.global_backbone.name] = offset
        channels, generator = model.global_backbone.out_channels, torch.Generator().manual_seed(0)
        feature_map = torch.randn(2, channels, 7, 7, generator=generator)
        compiled = torch.compile(TwoStreamNetwork.propose_on_map, fullgraph=True, backend="eager")
        found.append(compiled(model, feature_map, *inputs(2)))
        assert torch.equal(found[-1], model.propose_on_map(feature_map, *inputs(2)))
    assert not torch.equal(*found)


# --- torch.export ---


@pytest.mark.slow
@pytest.mark.parametrize("backbone", KINDS)
def test_exported_with_a_dynamic_batch(backbone):
    model = classifier(backbone)
    _ = model.cell_offset
    axes = {0: Dim("b", max=4096), 1: Dim("p", max=4096)}  # torch 2.5 wants an end

    def export(given, *shapes):
        # Not strict, as is torch's default from 2.7 on.
        return torch.export.export(model, given, dynamic_shapes=shapes, strict=False).module()

    with torch.no_grad():
        exported = export(inputs(2), {0: axes[0]})
        for batch in (1, 5):
            assert_same(exported(*inputs(batch)), model(*inputs(batch)))
        exported = export(inputs(2, 3), {0: axes[0]}, axes)
        for batch, patches in ((1, 1), (4, 5)):
            given = inputs(batch, patches)
            assert_same(exported(*given), model(*given))


@pytest.mark.skipif(torch.__version__.startswith("2.5."), reason="torch itself says it, at length")
def test_export_before_the_offset_is_measured():
    model = classifier()
    with pytest.raises(ValueError) as caught:
        torch.export.export(model, inputs(2), strict=False)
    assert str(caught.value).startswith(
        "Expected `backbone` to have weights, but got stand-ins: it is on the meta device, or "
        "being exported. Before an export without patches read model.cell_offset once."
    )
    assert "cell_offset" not in vars(model)
    assert model.cell_offset == measure_cell_offset(model.global_backbone, 320)
    with pytest.raises(ValueError, match="but got stand-ins"):
        measure_cell_offset(torch.nn.Conv2d(3, 4, 8, stride=8, device="meta"), 64)


# --- ONNX ---

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < onnx_export.OLDEST_TORCH
not_with_old_torch = pytest.mark.skipif(OLD, reason="this torch is too old for export_onnx")


@contextlib.contextmanager
def unchanged(model):
    """See that a call leaves modes, weights, gradients, hooks and random state as they are."""
    model.train().local_backbone.eval()
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    hook = model.local_head.register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    yield
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        next(iter(before))
    ]
    assert torch.equal(first.grad, torch.ones_like(first))
    assert list(model.local_head._forward_hooks) == [hook.id]
    model.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write each model once: a function of backbone and graph to the model and its file."""
    if OLD:
        pytest.skip("this torch is too old for export_onnx")
    folder, done = tmp_path_factory.mktemp("onnx"), {}

    def file(backbone, graph):
        if (backbone, graph) not in done:
            weighting = "anytime" if backbone == "test_vit" else "equal"
            model = classifier(backbone, patch_weighting=weighting)
            path = folder / f"{backbone}-{graph}.onnx"
            printed = io.StringIO()
            with unchanged(model), contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                export_onnx(model, path, graph=graph)
            assert printed.getvalue() == ""
            done[backbone, graph] = model, path
        return done[backbone, graph]

    return file


def answer(path, *tensors):
    """Run a file; answers by name."""
    session = onnxruntime.InferenceSession(path)
    wanted = [entry.name for entry in session.get_inputs()]
    arrays = dict(zip(wanted, (tensor.numpy() for tensor in tensors), strict=True))
    found = map(torch.from_numpy, session.run(None, arrays))
    return dict(zip((entry.name for entry in session.get_outputs()), found, strict=True))


@pytest.mark.slow
@not_with_old_torch
def test_attention_within_windows_is_exported(tmp_path):
    """Hiera's has a fifth axis, for which torch.onnx has no fused attention."""
    sizes = {"image_size": 224, "patch_size": 224}
    kind = {"stages": (1, 1, 1, 1), "embed_dim": 32}
    model = classifier("hiera_tiny_224", backbone_kwargs=kind, **sizes)
    with torch.no_grad():
        export_onnx(model, tmp_path / "hiera.onnx", graph="patches")
        images, patches = torch.randn(1, 3, 224, 224), torch.randn(1, 2, 3, 224, 224)
        wanted = model(images, patches).logits
    found = answer(tmp_path / "hiera.onnx", images, patches)["logits"]
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "graph"),
    [
        ("densenet121", "whole"),
        ("densenet121", "patches"),
        ("test_mambaout", "patches"),
        ("test_vit", "patches"),
    ],
)
def test_onnx_answers_as_eager(files, backbone, graph):
    model, path = files(backbone, graph)
    with torch.no_grad():
        for batch, patches in ((1, 1), (5, 6)):
            given = inputs(batch, patches if graph == "patches" else None)
            found, wanted = answer(path, *given), model(*given)._asdict()
            wanted = {name: tensor for name, tensor in wanted.items() if tensor is not None}
            assert list(found) == list(wanted)
            assert_same(found.values(), wanted.values())


def test_onnx_boxes_are_those_of_propose(files):
    model, path = files("densenet121", "boxes")
    images = torch.randn(3, 3, *[model.proposal_size] * 2, generator=torch.Generator())
    assert model.proposal_size != model.image_size
    torch.testing.assert_close(answer(path, images)["boxes"], model.propose(images))


def test_what_stands_in_the_file(files):
    model, path = files("densenet121", "boxes")
    entries = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert entries == {
        "class_names": NAMES,
        "image_size": model.proposal_size,
        "patch_size": 32,
        "num_patches": 2,
        "num_features": model.local_backbone.out_channels,
        "fusion_weight": model.fusion_weight,
        "temperatures": None,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "pixel_range": [0, 1],
        "color_order": "RGB",
        "interpolation": model.data_config["interpolation"],
        "resize": "stretch",
        "graph": "boxes",
        "global_backbone": "densenet121",
        "local_backbone": "densenet121",
        "recurrent_attention": "0.1.0",
    }
    _, path = files("densenet121", "patches")
    proto = onnx.load(path)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()  # no traces of here
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes["images"] == ["batch", 3, 64, 64]
    assert shapes["patches"] == ["batch", "patches_per_image", 3, 32, 32]
    assert shapes["step_logits"] == ["batch", "patches_per_image", 2, 5]


@pytest.fixture
def no_export(files, monkeypatch):
    """Let `export_onnx` take the graph of a file that is there, changed by a function."""

    def install(change=lambda graph: None):
        _, ready = files("densenet121", "patches")  # made now, as it draws at random

        def translate(graph):
            proto = onnx.load(ready)
            change(proto.graph)
            return proto

        monkeypatch.setattr(onnx_export, "translate", translate)

    return install


def spoil(graph):
    for tensor in graph.initializer:
        if tensor.name.endswith("local_head.bias"):
            values = onnx.numpy_helper.to_array(tensor) + np.float32(1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def test_a_file_that_answers_otherwise_is_not_written(no_export, tmp_path):
    model, path = classifier(), tmp_path / "m.onnx"
    path.write_bytes(b"before")
    no_export(spoil)
    with unchanged(model), pytest.raises(RuntimeError) as caught:
        export_onnx(model, path, graph="patches")
    start, _, end = str(caught.value).partition(" differ by ")
    assert start == "Expected the ONNX graph to answer as the model does, but its `logits`"
    assert end.endswith(
        " of the largest: onnxruntime computes something in this backbone otherwise. Take another "
        "backbone."
    )
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("m.onnx", 6)]


@not_with_old_torch
def test_what_torch_cannot_export(monkeypatch, tmp_path):
    def export(*_, **__):
        raise RuntimeError("Failed to export, \n see below") from ValueError("no such thing.\n At")

    monkeypatch.setattr(torch.onnx, "export", export)
    model = classifier()
    with unchanged(model), pytest.raises(RuntimeError) as caught:
        export_onnx(model, tmp_path / "m.onnx")
    assert str(caught.value) == (
        "Expected a model that torch.onnx can export, but got ValueError: no such thing. Try "
        "another backbone, or a newer torch."
    )
    assert list(tmp_path.iterdir()) == []


@not_with_old_torch
def test_a_model_of_more_than_two_gigabytes(monkeypatch, tmp_path):
    weights = SimpleNamespace(const_value=SimpleNamespace(nbytes=3_000_000_000))
    graph = SimpleNamespace(initializers={"weight": weights})
    program = SimpleNamespace(model=SimpleNamespace(graph=graph))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    with pytest.raises(ValueError) as caught:
        export_onnx(classifier(), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "Expected the weights to take less than 2 GB, the most that one ONNX file holds, but got "
        "3.0 GB. Take a smaller backbone."
    )


@not_with_old_torch
def test_what_is_not_taken(tmp_path, monkeypatch):
    model, path = classifier(), tmp_path / "m.onnx"
    half = copy.deepcopy(model).half()
    for call, error, message in (
        (
            lambda: export_onnx(torch.compile(model), path),
            TypeError,
            "Expected `model` to be a TwoStreamClassifier, but got OptimizedModule. Pass the model "
            "that was compiled.",
        ),
        (
            lambda: export_onnx(model, path, graph="all"),
            ValueError,
            "Expected `graph` to be one of whole, patches, boxes, global, look, predict, but got "
            "'all'.",
        ),
        (
            lambda: export_onnx(half, path),
            TypeError,
            "Expected `model` to be in torch.float32, but got torch.float16. Export a copy: "
            "copy.deepcopy(model).float().",
        ),
        (
            lambda: export_onnx(model, tmp_path),
            IsADirectoryError,
            f"Expected `path` to be a file, but {tmp_path} is a folder.",
        ),
        (
            lambda: export_onnx(model, tmp_path / "none" / "m.onnx"),
            FileNotFoundError,
            f"Expected `path` to be in an existing folder, but there is no {tmp_path / 'none'}. "
            "Create it first.",
        ),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == message
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError) as caught:
        export_onnx(model, path)
    assert str(caught.value) == (
        "Expected onnxscript to export with, but it is not installed. Run: pip install "
        "'recurrent-attention[onnx]'"
    )
    monkeypatch.setattr(torch, "__version__", "2.7.1+cpu")
    with pytest.raises(ImportError) as caught:
        export_onnx(model, path)
    assert str(caught.value) == ("Expected torch 2.8 or newer to export with, but got 2.7.1+cpu.")
    assert list(tmp_path.iterdir()) == []


# --- examples/run_onnx.py ---


@pytest.fixture(scope="module")
def script(example):
    return example("run_onnx")


def test_the_example_needs_no_torch():
    imports = re.findall(r"^(?:import|from) (\w+)", SCRIPT.read_text("utf-8"), re.MULTILINE)
    roots = {*imports}
    assert roots <= {*sys.stdlib_module_names, "numpy", "onnxruntime", "PIL"}


def test_the_example_answers_as_predict(script, files, tmp_path, capsys):
    picture = Image.new("RGB", (150, 110), "olive")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((80, 20, 130, 70), "crimson")
    draw.rectangle((10, 60, 50, 100), "white")
    path = tmp_path / "picture.png"
    picture.save(path)
    (model, patches), (_, boxes) = (files("densenet121", graph) for graph in ("patches", "boxes"))
    wanted = model.predict(path)
    found = script.main([str(path), str(patches), str(boxes)])
    assert tuple(name for name, _ in found) == wanted.class_names
    assert [p for _, p in found] == pytest.approx(wanted.probabilities, abs=1e-4)
    assert wanted.class_names[0] in capsys.readouterr().out.splitlines()[0]
    alone = script.main([str(path), str(files("densenet121", "whole")[1])])
    assert len(alone) == 5
    with pytest.raises(ValueError) as caught:
        script.main([str(path), str(patches)])
    assert str(caught.value) == 'Expected a file of graph="boxes" beside one of graph="patches".'


@pytest.fixture(scope="module")
def in_sequence(tmp_path_factory):
    """Write a model that looks in sequence as three files."""
    if OLD:
        pytest.skip("this torch is too old for export_onnx")
    folder = tmp_path_factory.mktemp("sequence")
    model = classifier(
        "densenet121", patch_weighting="anytime", num_patches=4, fusion_weight=2.0,
        temperatures=(0.8, 1.3),
    )  # fmt: skip
    with torch.no_grad():
        model.attention.scorer.weight.mul_(20)
        for head in (model.global_head, model.local_head):
            head.weight.mul_(4)
    files = [folder / f"{graph}.onnx" for graph in ("global", "boxes", "look")]
    for file in files:
        export_onnx(model, file, graph=file.stem)
    return model, files


@pytest.mark.slow
def test_a_look_of_onnx_is_a_look_of_the_model(in_sequence):
    model, (whole, _, look) = in_sequence
    images, patches = inputs(3, 4)
    with torch.no_grad():
        wanted = model(images, patches)
        found = answer(whole, images)["global_logits"]
        torch.testing.assert_close(found, wanted.global_logits, rtol=1e-4, atol=1e-3)
        width = model.local_backbone.out_channels
        state = (torch.zeros(3, width), torch.zeros(3), torch.full((3,), -torch.inf))
        for number in range(4):
            found = answer(look, patches[:, number], *state)
            by_looks = wanted.local_prefix_logits[:, number]
            torch.testing.assert_close(found["local_logits"], by_looks, rtol=1e-4, atol=1e-3)
            state = (found["after_total"], found["after_mass"], found["after_peak"])


@pytest.mark.slow
def test_the_example_stops_where_predict_does(script, in_sequence, tmp_path):
    model, files = in_sequence
    stops = set()
    for seed in range(3):
        photo(seed, (150, 110)).save(tmp_path / "picture.png")
        full = model.predict(tmp_path / "picture.png")
        shares = sorted(share for _, share in full.after)
        between = [(low + high) / 2 for low, high in pairwise(shares) if high - low > 0.01]
        for confidence in (0.0, *between, 1.0):  # Pillow's pixels differ by a level
            wanted = model.predict(tmp_path / "picture.png", confidence=confidence)
            stops.add(wanted.looks)
            words = [str(tmp_path / "picture.png"), *map(str, files)]
            found = script.main([*words, "--confidence", str(confidence)])
            assert [p for _, p in found] == pytest.approx(wanted.probabilities, abs=5e-3)
    assert len(stops) > 2, stops


@pytest.mark.slow
@not_with_old_torch
@pytest.mark.data
def test_the_example_answers_as_predict_on_a_real_bird(script, real_data, tmp_path):
    weights = {"file": str(real_data / "weights" / "mobilenetv2_100.safetensors")}
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        "mobilenetv2_100",
        50,
        pretrained=True,
        backbone_kwargs={"pretrained_cfg_overlay": weights},
        image_size=224,
        patch_size=224,
        num_patches=2,
        patch_weighting="linear",
    )
    for graph in ("patches", "boxes"):
        export_onnx(model, tmp_path / f"{graph}.onnx", graph=graph)
    birds = sorted((real_data / "CUB_200_2011_first50" / "images").glob("*/*.jpg"))[::900]
    for bird in birds:
        files = [str(tmp_path / f"{graph}.onnx") for graph in ("patches", "boxes")]
        found, wanted = script.main([str(bird), *files]), model.predict(bird, top_k=50)
        # Pixels differ by a level, and classes as untrained as these may change places by it.
        known = dict(zip(wanted.class_names, wanted.probabilities, strict=True))
        assert [p for _, p in found] == pytest.approx([known[n] for n, _ in found], abs=1e-3)
        assert [p for _, p in found] == pytest.approx(wanted.probabilities[:5], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_a_model_of_other_channels_names_its_pictures(tmp_path, example, channels, mode):
    model = TwoStreamClassifier(
        "test_resnet", 3, image_size=64, patch_size=32, hidden_size=8, in_chans=channels,
        class_names=["auk", "emu", "owl"],
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.global_head.weight.mul_(100)
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "bird.png")
    for graph in ("patches", "boxes"):
        export_onnx(model, tmp_path / f"{graph}.onnx", graph=graph)
    found = example("run_onnx").main(
        [str(tmp_path / name) for name in ("bird.png", "patches.onnx", "boxes.onnx")]
    )
    wanted = model.predict(tmp_path / "bird.png")
    assert [name for name, _ in found] == list(wanted.class_names)
    for (_, probability), exact in zip(found, wanted.probabilities, strict=True):
        assert probability == pytest.approx(exact, abs=0.02)
    metadata = example("run_onnx").load(tmp_path / "patches.onnx")[1]
    assert metadata["color_order"] == mode
    assert len(metadata["mean"]) == len(metadata["std"]) == channels


@pytest.mark.slow
def test_an_export_leaves_one_file(tmp_path):
    """onnxruntime would write of its use into the home folder, and into that of temporary files."""
    code = (
        "import torch\n"
        "from recurrent_attention import TwoStreamClassifier, export_onnx\n"
        "model = TwoStreamClassifier('test_resnet', 2, image_size=64, patch_size=32)\n"
        "export_onnx(model, 'model.onnx')\n"
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "temporary").mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    env = {**os.environ, **places}
    env.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in left if "torch" not in name} == {"model.onnx"}
