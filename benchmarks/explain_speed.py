"""What T step maps cost: `explain` against a plain pass, and against T hook-based passes.

    python benchmarks/explain_speed.py

One image and one patch on one CPU thread. "plain" is a forward pass of both backbones without
gradient and of the head, and one backward pass to the head's input: the least that one Grad-CAM
costs. "hooks" is pytorch-grad-cam, once for each step, of the local stream alone. The order of the
three changes from round to round; the table shows medians over the rounds, and of the ratios within
a round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from recurrent_attention import TwoStreamClassifier, TwoStreamFeatures

# name, side of the image, side of the patch, hidden size of the recurrence
MODELS = (
    ("vgg19", 448, 224, 512),
    ("mobilenetv2_100", 448, 224, 512),
    ("mobilenetv2_100", 224, 224, 512),
    ("test_resnet", 224, 224, 512),
    ("test_resnet", 224, 224, 128),
    ("test_mambaout", 224, 224, 128),
    ("test_vit", 224, 224, 128),
)


class OneStep(nn.Module):
    """A network of patches alone, whose output is what one step answers."""

    def __init__(self, model: TwoStreamClassifier, step: int) -> None:
        super().__init__()
        self.model = model
        self.step = step

    def forward(self, patches: Tensor) -> Tensor:
        found = self.model.attention(self.model.local_backbone(patches))
        return self.model.local_head(found.states[:, self.step])


def plain(model: TwoStreamClassifier, images: Tensor, patches: Tensor) -> None:
    with torch.no_grad():
        features = model.encode(images, patches)
    leaves = [feature.requires_grad_() for feature in features]
    output = model.classify(TwoStreamFeatures(*leaves))
    best = output.logits[0].argmax()
    torch.autograd.grad(output.logits[0, best], leaves)


def hooks(model: TwoStreamClassifier, patches: Tensor, steps: int) -> None:
    for step in range(steps):
        with GradCAM(OneStep(model, step), [model.local_backbone]) as cam:
            cam(patches[:, 0], [ClassifierOutputTarget(0)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--classes", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"T = {args.steps}, {args.rounds} rounds, milliseconds\n")
    heads = ("backbone", "image, patch", "d", "plain", "explain", "T hook passes")
    print(f"| {' | '.join(heads)} | explain / plain | hooks / explain |")
    print("|---" * 8 + "|")
    for name, image_size, patch_size, hidden_size in MODELS:
        torch.manual_seed(0)
        model = TwoStreamClassifier(
            name,
            args.classes,
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            num_steps=args.steps,
        ).eval()
        images = torch.randn(1, 3, image_size, image_size)
        patches = torch.randn(1, 1, 3, patch_size, patch_size)
        runs: list[tuple[str, Callable[[], object]]] = [
            ("plain", lambda m=model, i=images, p=patches: plain(m, i, p)),
            ("explain", lambda m=model, i=images, p=patches: m.explain(i, patches=p)),
            ("hooks", lambda m=model, p=patches: hooks(m, p, args.steps)),
        ]
        for _, run in runs:
            run()
        times: dict[str, list[float]] = {kind: [] for kind, _ in runs}
        for round_ in range(args.rounds):
            for kind, run in runs[round_ % 3 :] + runs[: round_ % 3]:
                started = time.perf_counter()
                run()
                times[kind].append(1000 * (time.perf_counter() - started))

        def ratio(one: str, other: str, times: dict[str, list[float]] = times) -> float:
            return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

        median = {kind: statistics.median(values) for kind, values in times.items()}
        print(
            f"| {name} | {image_size}, {patch_size} | {hidden_size} | {median['plain']:.0f} | "
            f"{median['explain']:.0f} | {median['hooks']:.0f} | "
            f"{ratio('explain', 'plain'):.2f} | {ratio('hooks', 'explain'):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
