r"""Compile and export two-stream models of many backbones, and compare each answer with eager.

    OMP_NUM_THREADS=1 python benchmarks/export.py              the models of docs/guides/export.md
    OMP_NUM_THREADS=1 python benchmarks/export.py NAME ...     others

Prints a table in Markdown, a line as soon as it is known. A number is the largest difference from
eager torch over all outputs, as a share of the largest value of each; words tell why there is none.
Weights are random: what is compared is the arithmetic. Takes about an hour on one core.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import onnxruntime
import timm
import torch

from recurrent_attention import TwoStreamClassifier, export_onnx

USUAL = """
    resnet50 convnext_tiny swin_tiny_patch4_window7_224 vit_small_patch16_224 efficientnet_b0
    mobilenetv3_large_100 regnety_004 maxvit_tiny_rw_224 coatnet_0_rw_224 coat_tiny
    deit3_small_patch16_224 eva02_tiny_patch14_224 hiera_tiny_224 fastvit_t8 mambaout_femto vgg19
    densenet121 nfnet_l0 mobilenetv2_100 levit_128s pvt_v2_b0 efficientformer_l1
"""


def build(name: str) -> TwoStreamClassifier:
    torch.manual_seed(0)
    size = 64 if name.startswith("test_") else 224
    model = TwoStreamClassifier(
        name, 7, image_size=size, patch_size=size, num_patches=4, hidden_size=32, num_steps=2
    ).eval()
    for head in (model.global_head, model.local_head):
        torch.nn.init.normal_(head.weight, std=0.1)  # 0.01 would make small of every difference
    return model


def inputs(model: TwoStreamClassifier, batch: int, patches: int | None) -> tuple[torch.Tensor, ...]:
    side = model.image_size
    images = torch.randn(batch, 3, side, side)
    return (images,) if patches is None else (images, torch.randn(batch, patches, 3, side, side))


def compare(found: tuple, wanted: tuple) -> float:
    pairs = zip(found, (tensor for tensor in wanted if tensor is not None), strict=True)
    return max(float((ours - w).abs().max() / w.abs().max()) for ours, w in pairs)


@torch.no_grad()
def by_compile(model: TwoStreamClassifier, patches: int | None, backend: str) -> float:
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    given = inputs(model, 2, patches)
    return compare([t for t in compiled(*given) if t is not None], model(*given))


@torch.no_grad()
def by_export(model: TwoStreamClassifier, patches: int | None) -> float:
    _ = model.cell_offset
    axes = {0: torch.export.Dim("b"), 1: torch.export.Dim("p")}
    shapes = ({0: axes[0]},) if patches is None else ({0: axes[0]}, axes)
    exported = torch.export.export(model, inputs(model, 2, patches), dynamic_shapes=shapes)
    given = inputs(model, 3, patches and patches - 1)
    return compare([t for t in exported.module()(*given) if t is not None], model(*given))


@torch.no_grad()
def by_onnx(model: TwoStreamClassifier, patches: int | None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, graph="whole" if patches is None else "patches")
        session = onnxruntime.InferenceSession(path)
    given = inputs(model, 1, patches)
    names = [entry.name for entry in session.get_inputs()]
    arrays = dict(zip(names, (tensor.numpy() for tensor in given), strict=True))
    return compare([*map(torch.from_numpy, session.run(None, arrays))], model(*given))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[*timm.list_models("test_*"), *USUAL.split()])
    parser.add_argument("--backend", default="eager", help="of torch.compile (default: eager)")
    args = parser.parse_args()
    logging.disable()  # torch says by itself at length what stands in the table in a few words
    warnings.simplefilter("ignore")
    ways = {
        "`torch.compile`": partial(by_compile, backend=args.backend),
        "`torch.export`": by_export,
        "ONNX": by_onnx,
    }
    columns = [(f"{way}, {what}", run, p) for way, run in ways.items()
               for what, p in (("patches given", 3), ("label-free", None))]  # fmt: skip
    print("| backbone |", " | ".join(name for name, _, _ in columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name in args.names:
        cells = []
        for _, run, patches in columns:
            torch._dynamo.reset()
            try:
                cells.append(f"{run(build(name), patches):.0e}")
            except Exception as error:  # whatever a backbone does
                cells.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}")
                print(name, type(error).__name__, error, file=sys.stderr)
        print(f"| `{name}` |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
