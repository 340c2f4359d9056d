"""What T step maps cost: `explain` against a plain pass, and T hook-based passes. See speed.py.

One image and one patch on one CPU thread. "plain" is a forward pass of both backbones without
gradient and of the head, and one backward pass to the head's input: the least that one Grad-CAM
costs. "hooks" is pytorch-grad-cam, once for each step, of the local stream alone.
"""

import torch
from pages import table
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timing import Run, interleave, median, ratio
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


def measure(rounds: int, steps: int = 10, classes: int = 200) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_row(*case, rounds, steps, classes) for case in MODELS]
    finally:
        torch.set_num_threads(threads)
    heads = ("backbone", "image, patch", "d", "plain (ms)", "explain (ms)", "T hook passes (ms)")
    return table((*heads, "explain / plain", "hooks / explain"), rows)


def _row(
    name: str, image_size: int, patch_size: int, hidden: int, rounds: int, steps: int, classes: int
) -> tuple[object, ...]:
    torch.manual_seed(0)
    sizes = {"image_size": image_size, "patch_size": patch_size, "hidden_size": hidden}
    model = TwoStreamClassifier(name, classes, num_steps=steps, **sizes).eval()
    images = torch.randn(1, 3, image_size, image_size)
    patches = torch.randn(1, 1, 3, patch_size, patch_size)
    runs: dict[str, Run] = {
        "plain": lambda: plain(model, images, patches),
        "explain": lambda: model.explain(images, patches=patches),
        "hooks": lambda: hooks(model, patches, steps),
    }
    times = interleave(runs, rounds, f"explain, {name}")
    return (
        name,
        f"{image_size}, {patch_size}",
        hidden,
        *(f"{1000 * median(times, kind):.0f}" for kind in times),
        f"{ratio(times, 'explain', 'plain'):.2f}",
        f"{ratio(times, 'hooks', 'explain'):.1f}",
    )
