r"""Compile and export two-stream models of many backbones, and compare each answer with eager.

    OMP_NUM_THREADS=1 python benchmarks/export.py              fills docs/guides/export.md
    OMP_NUM_THREADS=1 python benchmarks/export.py NAME ...     prints the table of others

A number is the largest difference from
eager torch over all outputs of the label-free model, which holds the one with given patches, as a
share of the largest value of each; words tell why there is none. Exports are for any batch, and are
tried with another one than was traced. Weights are random: it is the arithmetic that is compared.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import onnxruntime
import timm
import torch
from pages import ROOT, fill, machine, table
from tqdm import tqdm

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
        name, 7, image_size=size, patch_size=size, num_patches=2, hidden_size=32, num_steps=2
    ).eval()
    for head in (model.global_head, model.local_head):
        torch.nn.init.normal_(head.weight, std=0.1)  # 0.01 would make small of every difference
    return model


def pictures(model: TwoStreamClassifier, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, model.image_size, model.image_size)


def compare(found: Iterable[torch.Tensor | None], wanted: Iterable[torch.Tensor | None]) -> float:
    pairs = zip(*([t for t in output if t is not None] for output in (found, wanted)), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def by_compile(model: TwoStreamClassifier, backend: str) -> float:
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    images = pictures(model, 2)
    return compare(compiled(images), model(images))


def by_export(model: TwoStreamClassifier) -> float:
    _ = model.cell_offset
    shapes = ({0: torch.export.Dim("b")},)
    exported = torch.export.export(model, (pictures(model, 2),), dynamic_shapes=shapes)
    images = pictures(model, 3)
    return compare(exported.module()(images), model(images))


def by_onnx(model: TwoStreamClassifier) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(path)
    images = pictures(model, 1)
    found = session.run(None, {"images": images.numpy()})
    return compare(map(torch.from_numpy, found), model(images))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of timm (default: those of the page)")
    parser.add_argument("--backend", default="eager", help="of torch.compile (default: eager)")
    args = parser.parse_args()
    logging.disable()  # torch says at length what stands in the table in a few words
    warnings.simplefilter("ignore")
    ways = {
        "`torch.compile`": partial(by_compile, backend=args.backend),
        "`torch.export`": by_export,
        "`export_onnx`": by_onnx,
    }
    rows = []
    for name in tqdm(args.names or [*USUAL.split(), *timm.list_models("test_*")]):
        cells = []
        for run in ways.values():
            torch._dynamo.reset()
            try:
                cells.append(f"{run(build(name)):.0e}")
            except Exception as error:  # whatever a backbone does
                cells.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}")
                tqdm.write(f"{name} {type(error).__name__} {error}", file=sys.stderr)
        rows.append((f"`{name}`", *cells))
    found = table(("backbone", *ways), rows)
    if args.names:
        print(found)
    else:
        fill(ROOT / "docs" / "guides" / "export.md", "exports", f"{found}\n\n{machine()}.")


if __name__ == "__main__":
    main()
