"""Pictures by eager torch, compiled, and by onnxruntime: passes and `predict`. See speed.py."""

import copy
import tempfile
from pathlib import Path

import onnxruntime
import torch
from pages import table
from speed_many import write_pictures
from timing import Run, interleave, median, ratio

from recurrent_attention import TwoStreamClassifier, export_onnx
from recurrent_attention.export import OnnxClassifier

BACKBONES = ("mobilenetv2_100", "resnet50", "vit_tiny_patch16_224")
PLAIN = "eager, plain layout"
FILES, LOOKS = 3, 10


def cases(backbone: str, folder: Path) -> dict[str, Run]:
    torch.manual_seed(0)
    model = TwoStreamClassifier(backbone, 200, image_size=224).eval()
    images, patches = torch.randn(1, 3, 224, 224), torch.randn(1, 1, 3, 224, 224)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    compiled = torch.compile(model, fullgraph=True)
    export_onnx(model, folder / "model.onnx", graph="patches")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    feed = {"images": images.numpy(), "patches": patches.numpy()}
    return {
        PLAIN: lambda: plain(images, patches),
        "eager": lambda: model(images, patches),
        "torch.compile": lambda: compiled(images, patches),
        "onnxruntime": lambda: session.run(None, feed),
    }


def measure(rounds: int) -> str:
    rows = []
    for backbone in BACKBONES:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            times = interleave(cases(backbone, Path(folder)), rounds, f"serving, {backbone}")
        row = [
            f"{1000 * median(times, name):.1f} ({ratio(times, PLAIN, name):.1f})" for name in times
        ]
        rows.append((backbone, *row))
    return table(("milliseconds a picture (times as fast)", *times), rows)


def predict_cases(backbone: str, folder: Path) -> dict[str, Run]:
    """Name what is on picture files, with ten looks at each, as the command `predict` does."""
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        backbone, 200, image_size=224, num_patches=LOOKS, patch_weighting="anytime"
    ).eval()
    export_onnx(model, folder / "model.onnx", graph="predict")
    loaded = OnnxClassifier(folder / "model.onnx")
    paths = write_pictures(folder, FILES)
    return {"torch": lambda: model.predict(paths), "onnxruntime": lambda: loaded.predict(paths)}


def measure_predict(rounds: int) -> str:
    rows = []
    for backbone in BACKBONES[:2]:
        with tempfile.TemporaryDirectory() as folder:
            times = interleave(
                predict_cases(backbone, Path(folder)), rounds, f"predict, {backbone}"
            )
        each = [f"{1000 * median(times, name) / FILES:.0f}" for name in times]
        rows.append((backbone, *each, f"{ratio(times, 'torch', 'onnxruntime'):.2f}"))
    heads = ("`predict`, ten looks", "torch (ms a picture)", "onnxruntime (ms)", "times as fast")
    return table(heads, rows)
