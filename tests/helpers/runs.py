"""A small model, small data and what a run of them leaves, to be compared with another run."""

import torch
from stress.kills import without_times

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import TwoStreamDataset
from recurrent_attention.images.views import IMAGENET_MEAN, IMAGENET_STD

QUIET = {"device": "cpu", "progress": False}
LOOK = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}


def make_model():
    torch.manual_seed(0)
    return TwoStreamClassifier(
        "test_resnet", 2, image_size=32, patch_size=32, hidden_size=8, num_steps=2, drop_rate=0.3,
        backbone_kwargs={"pretrained_cfg_overlay": LOOK},
    )  # fmt: skip


def make_data(colored_pictures, *, crop_scale=(0.5, 1), augment=None):
    pictures, boxes = colored_pictures
    sizes = {"image_size": 32, "patch_size": 32}
    drawn = {"train": True, "crop_scale": crop_scale, "augment": augment}
    return (
        TwoStreamDataset(pictures, boxes, **drawn, **sizes),
        TwoStreamDataset(pictures, boxes, **sizes),
    )


def results(model, fitted):
    history = without_times({"history": [dict(record) for record in fitted.history]})
    return history, fitted.best_epoch, model.state_dict()
