"""Kill training with SIGKILL, again and again, resume it, and compare with a run left in peace.

    OMP_NUM_THREADS=1 python tests/stress/kills.py --kills 60 --inside-saves 15

Each run trains two streams from scratch, with dropout, random crops, flips and patches, is killed
some times, and must end with the same metrics and weights, bit for bit. Some kills come at any
moment, some while a checkpoint or a model is being written. After each, every file that can be seen
must be whole, and no checkpoint may be lost.
"""

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.images.views import IMAGENET_MEAN, IMAGENET_STD
from recurrent_attention.training import Recipe, RunFolder, fit, state

KILLS_PER_RUN = 5
SECONDS = 600  # a child that takes longer hangs
LOOK = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}
RECIPE = Recipe(epochs=8, batch_size=4, seed=3)


def make_data(folder: Path) -> tuple[TwoStreamDataset, TwoStreamDataset]:
    """Draw 24 small pictures of two classes."""
    generator = torch.Generator().manual_seed(0)
    names, boxes = [], {}
    for number in range(24):
        name = f"{number:02d}.png"
        shade = torch.randint(0, 255, (40, 48, 3), generator=generator, dtype=torch.uint8)
        shade[..., number % 2] //= 2
        Image.fromarray(shade.numpy()).save(folder / name)
        names.append(name)
        boxes[name] = torch.tensor([[2.0, 2, 20, 20], [10, 5, 40, 38], [0, 0, 30, 30]])
    pictures = Pictures(folder, names, [n % 2 for n in range(24)], ["red", "green"])
    sizes = {"image_size": 32, "patch_size": 32, "num_patches": 2}
    train, validation = pictures.split(0.25, seed=0)
    return (
        TwoStreamDataset(train, boxes, train=True, crop_scale=(0.5, 1), **sizes),
        TwoStreamDataset(validation, boxes, **sizes),
    )


def train(data, run_dir: Path, **kwargs) -> None:
    """Train from the beginning, or from the last checkpoint."""
    torch.manual_seed(0)
    model = TwoStreamClassifier(
        "test_resnet", 2, image_size=32, patch_size=32, hidden_size=16, num_steps=3, drop_rate=0.2,
        backbone_kwargs={"pretrained_cfg_overlay": LOOK},
    )  # fmt: skip
    run = RunFolder(run_dir, resume=True)
    result = fit(
        model, *data, recipe=RECIPE, run_folder=run, resume=True, device="cpu", progress=False
    )
    torch.save(model.state_dict(), run_dir / "final.pt")
    run.write_json("final.json", {"history": result.history, "best_epoch": result.best_epoch})


def start(data, run_dir: Path) -> int:
    """Train in a child process; give its number."""
    child = os.fork()
    if child:
        return child
    # The bars' lock is shared with every fork: a child killed while it holds it stops all others.
    tqdm.set_lock(threading.RLock())
    try:
        train(data, run_dir)
    except BaseException as error:  # this child must not go on as a second parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def wait(child: int, seconds: float) -> int | None:
    """Wait for a child's exit code, None if it is still running after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def wait_for_a_save(child: int, run_dir: Path) -> bool:
    """Wait until the child is writing a file beside its place; False if it ended before."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for folder in (run_dir / "checkpoints", run_dir / "model"):
            if any(folder.glob(".*.part")):
                return True
        if wait(child, 0.0002) is not None:
            return False
    os.kill(child, signal.SIGABRT)  # faulthandler tells where it stood
    raise AssertionError(f"the child neither saved nor ended within {SECONDS} seconds")


def look(run_dir: Path, steps_before: list[int]) -> list[int]:
    """Check that all that can be seen is whole, and that the last checkpoint is no earlier."""
    run = RunFolder(run_dir, resume=True)
    steps = run.checkpoints.steps()
    assert max(steps, default=-1) >= max(steps_before, default=-1), (steps_before, steps)
    for step in steps:
        state = run.checkpoints.load(step)
        assert state["progress"]["step"] == step
    if (run_dir / "model" / "model.safetensors").exists():
        TwoStreamClassifier.from_pretrained(run.model_dir)
    if (run_dir / "metrics.jsonl").exists():
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    return steps


def without_times(result: dict) -> dict:
    timed = ("seconds", "images_per_second", "val_images_per_second")
    for record in result["history"]:
        for key in timed:
            record.pop(key)
    return result


def same(run_dir: Path, reference: Path) -> bool:
    """Compare metrics and final weights, bit for bit."""
    ours, theirs = (without_times(json.loads((d / "final.json").read_text()))
                    for d in (run_dir, reference))  # fmt: skip
    weights, others = (torch.load(d / "final.pt", weights_only=True) for d in (run_dir, reference))
    return ours == theirs and all(torch.equal(weights[name], others[name]) for name in others)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60, help="in all (default: 60)")
    parser.add_argument("--inside-saves", type=int, default=15, help="of them (default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    faulthandler.enable()
    state.CHECKPOINT_SECONDS = 0.05  # within an epoch too
    chance = random.Random(args.seed)
    kinds = ["inside"] * args.inside_saves + ["anywhere"] * (args.kills - args.inside_saves)
    chance.shuffle(kinds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        data = make_data(folder / "pictures")
        started = time.monotonic()
        assert wait(start(data, folder / "peace"), SECONDS) == 0
        length = time.monotonic() - started
        done = {"inside": 0, "anywhere": 0}
        runs, equal, checkpoints = 0, 0, 0
        bar = tqdm(total=len(kinds), desc="kills", disable=not sys.stderr.isatty())
        while kinds:
            run_dir, runs, steps = folder / f"run-{runs}", runs + 1, []
            for _ in range(min(KILLS_PER_RUN, len(kinds))):
                kind, child = kinds[-1], start(data, run_dir)
                if kind == "inside":
                    # Not always the first one, and at another moment of it.
                    alive = wait(child, chance.uniform(0, length / 3)) is None
                    alive = alive and wait_for_a_save(child, run_dir)
                else:
                    alive = wait(child, chance.uniform(0, length / 2)) is None
                if not alive:
                    break
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kinds.pop()
                done[kind] += 1
                bar.update()
                if run_dir.exists():
                    steps = look(run_dir, steps)
                    checkpoints += bool(steps)
            else:
                assert wait(start(data, run_dir), SECONDS) == 0
            equal += same(run_dir, folder / "peace")
        bar.close()
    print(
        f"{sum(done.values())} kills survived ({done['inside']} while a file was being written, "
        f"{checkpoints} after the first checkpoint), {equal} of {runs} runs equal the one left in "
        f"peace bit for bit"
    )
    if equal != runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
