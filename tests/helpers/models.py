"""Small models and pictures, the same each time."""

import numpy as np
import torch
from PIL import Image

from recurrent_attention import TwoStreamClassifier

SMALL = {"image_size": 64, "patch_size": 32, "hidden_size": 16, "num_steps": 3}


def make(backbone="test_resnet", num_classes=5, *, seed=0, **kwargs):
    """A small model in eval mode, as initialised with a seed."""
    torch.manual_seed(seed)
    return TwoStreamClassifier(backbone, num_classes, **(SMALL | kwargs)).eval()


def photo(seed=0, size=(90, 70)):
    """Noise of several sizes, so that where and how something is cut out shows."""
    generator = np.random.default_rng(seed)
    layers = [
        Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8)).resize(size)
        for side in (3, 11, 40)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.3)
