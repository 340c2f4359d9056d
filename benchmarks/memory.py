"""Memory of a training step: what the weights take, and what each picture adds.

    python benchmarks/memory.py

For each backbone, with 448-pixel pictures and 224-pixel patches: megabytes of the weights, their
gradients and AdamW's two averages; what autograd keeps for the backward pass per picture, which is
the same on every device; and by how much a picture raises the peak of a training step on this one.
"""

import argparse
import json

import torch
from pages import table
from timing import MB, in_a_process, status
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss

BATCHES = (1, 3)  # two points of a straight line


def build(backbone: str) -> TwoStreamClassifier:
    torch.manual_seed(0)
    model = TwoStreamClassifier(backbone, num_classes=200, image_size=448, patch_size=224)
    return model.train()


def step(model: TwoStreamClassifier, batch: int, num_patches: int, precision: str) -> int:
    """Train on one batch; give the bytes that autograd kept for the backward pass."""
    kept: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(batch, 3, 448, 448)
    patches = torch.randn(batch, num_patches, 3, 224, 224)
    targets = torch.zeros(batch, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(images, patches)
        loss = TwoStreamLoss()(output, targets)
    loss.backward()
    return sum(kept.values())


def measure(backbone: str, num_patches: int, precision: str) -> dict[str, float | int | str]:
    model = build(backbone)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    kept = [step(model, batch, num_patches, precision) for batch in BATCHES]
    peaks = [
        in_a_process(__file__, "--step", backbone, str(batch), str(num_patches), precision)
        for batch in BATCHES
    ]
    more = BATCHES[1] - BATCHES[0]
    return {
        "backbone": backbone,
        "patches": num_patches,
        "precision": precision,
        "weights, gradients, AdamW (MB)": round(4 * weights / MB),
        "kept per picture (MB)": round((kept[1] - kept[0]) / more / MB),
        "peak per picture, CPU (MB)": round((peaks[1] - peaks[0]) / more),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["vgg19", "resnet50"])
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        backbone, batch, num_patches, precision = args.step
        step(build(backbone), int(batch), int(num_patches), precision)
        print(status("VmHWM"))  # getrusage would count the parent's peak
        return
    cases = [(b, p, c) for b in args.backbones for p in (1, 4) for c in ("fp32", "bf16")]
    rows = [measure(*case) for case in tqdm(cases)]
    print(table(rows[0], (row.values() for row in rows)))
    print(json.dumps({"torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
