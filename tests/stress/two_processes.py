"""What test_processes.py runs in one process and in two: train, evaluate, propose.

    torchrun --nproc_per_node 2 tests/stress/two_processes.py FOLDER

writes FOLDER/found-2.pt. With `--die`, the second process kills itself in the middle of training.
"""

import argparse
import os
import signal
from pathlib import Path

import torch
from kills import make_data

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.images.views import IMAGENET_MEAN, IMAGENET_STD
from recurrent_attention.training import (
    Recipe,
    RunFolder,
    evaluate,
    fit,
    fit_global_head,
    join_processes,
    loop,
    propose_boxes_for,
)
from recurrent_attention.training.processes import from_all

QUIET = {"device": "cpu", "progress": False}
LOOK = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}


class Doubled(TwoStreamDataset):
    """In float64, what is left of a difference is no rounding."""

    def __getitem__(self, index):
        image, patches, label, boxes = super().__getitem__(index)
        return image.double(), patches.double(), label, boxes


def make_model():
    torch.manual_seed(0)
    return TwoStreamClassifier(
        "test_resnet", 2, image_size=32, patch_size=32, hidden_size=8, num_steps=2, num_patches=3,
        backbone_kwargs={"pretrained_cfg_overlay": LOOK},
    )  # fmt: skip


def run(folder: Path) -> None:
    processes = join_processes("cpu")
    count = processes.num_processes
    (folder / "pictures").mkdir(exist_ok=True)
    with processes.main_process_first():
        data = make_data(folder / "pictures")
    found = {}
    # 18 pictures to train on, so that each epoch leaves some out; 6 to validate on.
    doubled = [Doubled(some.pictures, some.boxes, **shown(some)) for some in data]
    recipe = Recipe(epochs=2, batch_size=4 // count, lr=1e-2, head_lr=1e-2)
    run_folder = RunFolder(folder / f"run-{count}")
    model = make_model().double()
    result = fit(model, *doubled, recipe=recipe, run_folder=run_folder, **QUIET)
    found["trained"] = model.state_dict(), result.history

    data = [TwoStreamDataset(some.pictures, some.boxes, **shown(some)) for some in data]
    recipe = Recipe(
        epochs=3, batch_size=8 // count, head_lr=1e-2, optimizer="momentum", freeze=True
    )
    cache = folder / f"cache-{count}"
    model = make_model()
    read: list[str] = []  # by this process, for the keys of its features
    content = Pictures.content
    Pictures.content = lambda *args: read.append(args[0].names[args[1]]) or content(*args)
    result = fit(model, *data, recipe=recipe, cache_dir=cache, **QUIET)
    Pictures.content = content
    found["frozen"] = model.state_dict(), result.history
    found["read"] = from_all(read)

    # 18 pictures in batches of 4: two processes fill the last ones up, and must not count that.
    pictures = data[0].pictures
    held_out = TwoStreamDataset(pictures, data[0].boxes, image_size=32, patch_size=32)
    found["evaluation"] = evaluate(model, held_out, batch_size=4, **QUIET)[:5]

    model = make_model()
    fit_global_head(model, pictures, recipe=Recipe(epochs=2, batch_size=4), **QUIET)
    found["head"] = model.state_dict()
    found["boxes"] = propose_boxes_for(model, pictures, **QUIET)
    if processes.is_main_process:
        torch.save(found, folder / f"found-{count}.pt")
    processes.destroy_process_group()


def shown(data: TwoStreamDataset) -> dict:
    """Give the arguments of a data set, without the crops, which frozen features cannot have."""
    return {
        "image_size": data.image_size,
        "patch_size": data.patch_size,
        "num_patches": data.num_patches,
        "train": data.train,
    }


def die(folder: Path) -> None:
    processes = join_processes("cpu")
    with processes.main_process_first():
        data = make_data(folder)
    look_around = loop.TrainingLoop._look_around

    def killed(self, loss, indices):
        if self.progress.step == 3 and processes.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return look_around(self, loss, indices)

    loop.TrainingLoop._look_around = killed
    run = RunFolder(folder / "run")
    model = make_model()
    fit(model, *data, recipe=Recipe(epochs=50, batch_size=2), run_folder=run, **QUIET)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", action="store_true")
    args = parser.parse_args()
    (die if args.die else run)(args.folder)
