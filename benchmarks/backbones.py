"""Every timm model as a backbone: all names by shape alone, one of each module with real numbers.

    python benchmarks/backbones.py

Each name goes through `check_backbone`, on the meta device. Of each of timm's modules the model
with the fewest parameters is then trained for a step, saved, loaded and explained, on noise and
with random weights, in small sizes where it takes them. The page docs/backbones.md is written from
what was found. Nothing is downloaded.

Two processes of one thread each; a model that takes longer than --limit is given up. Results are
kept line by line in --results, and a sweep that was interrupted goes on from there; remove the file
after a change of the package.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import timm
import torch
from backbones_page import STEPS, Row, Task, page, rows_of, works
from tqdm import tqdm

from recurrent_attention import TwoStreamClassifier, TwoStreamLoss, check_backbone
from recurrent_attention._files import whole_file

ROOT = Path(__file__).parents[1]
CLASSES, BATCH = 7, 32  # of the check
SMALL = (192, 96)  # sides to try out with; cells of 32 pixels fill both
VERSIONS = {"torch": torch.__version__.partition("+")[0], "timm": timm.__version__}


# --- one model ---


def check(name: str, image_size: int | None = None, patch_size: int | None = None) -> Row:
    sizes = {"image_size": image_size, "patch_size": patch_size}
    report = check_backbone(name, num_classes=CLASSES, batch_size=BATCH, **sizes)
    streams = {
        key: stream._asdict() if stream else None
        for key, stream in (("image", report.global_stream), ("patch", report.local_stream))
    }
    kept = ("reason", "size_note", "fixed_size", "parameters", "trainable")
    bytes_of_step = report.state_bytes + report.kept_bytes
    return {key: getattr(report, key) for key in kept} | streams | {"step_bytes": bytes_of_step}


def try_out(name: str, image_size: int, patch_size: int) -> Row:
    """Train a step, save and load, explain; tell of each None, or what is wrong."""
    torch.manual_seed(0)
    sizes = {"image_size": image_size, "patch_size": patch_size}
    model = TwoStreamClassifier(name, CLASSES, **sizes)
    images = torch.randn(2, 3, image_size, image_size)
    patches = torch.randn(2, 1, 3, patch_size, patch_size)
    found: Row = {}
    for step, run in zip(STEPS, (train, save_and_load, explain), strict=True):
        try:
            found[step] = run(model, images, patches)
        except Exception as error:
            found[step] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return found


def train(model: TwoStreamClassifier, images: torch.Tensor, patches: torch.Tensor) -> str | None:
    output = model.train()(images, patches)
    TwoStreamLoss()(output, torch.tensor([0, 1])).backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    for p in model.parameters():
        p.grad = None
    without = [key for key, gradient in trained.items() if gradient is None]
    if without:
        return f"{len(without)} parameters without a gradient, such as {without[0]}"
    wrong = [key for key, gradient in trained.items() if not bool(gradient.isfinite().all())]
    return f"{len(wrong)} gradients are not finite, such as {wrong[0]}'s" if wrong else None


@torch.no_grad()
def save_and_load(
    model: TwoStreamClassifier, images: torch.Tensor, patches: torch.Tensor
) -> str | None:
    logits = model.eval()(images, patches).logits
    if not bool(logits.isfinite().all()):
        return "logits are not finite"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = TwoStreamClassifier.from_pretrained(folder).eval()
    same = torch.equal(again(images, patches).logits, logits)
    return None if same else "other logits after loading"


def explain(model: TwoStreamClassifier, images: torch.Tensor, _: torch.Tensor) -> str | None:
    """Explain one image, with the patch that the model itself proposes."""
    found = model.eval().explain(images[:1])
    height, width = model.global_backbone.map_size
    if found.global_map.shape != (1, height, width):
        return f"the global map has shape {tuple(found.global_map.shape)}"
    height, width = model.local_backbone.map_size
    if found.step_maps.shape != (1, 1, model.attention.num_steps, height, width):
        return f"the step maps have shape {tuple(found.step_maps.shape)}"
    finite = found.global_map.isfinite().all() and found.step_maps.isfinite().all()
    return None if bool(finite) else "maps are not finite"


# --- processes ---


def work(pipe: Connection) -> None:
    """Answer tasks until there are no more."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    while True:
        task = pipe.recv()
        if task is None:
            return
        run: Callable[..., Row] = {"check": check, "try": try_out}[task[0]]
        try:
            pipe.send(run(*task[1:]))
        except Exception as error:
            reason = str(error).partition("\n")[0]
            pipe.send({"reason": f"It ended with {type(error).__name__}: {reason}"})


class Worker:
    """A process, and its task under way."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=work, args=(other_end,), daemon=True)
        self.process.start()
        other_end.close()  # so that the end of the process is seen here
        self.task: Task | None = None
        self.started = 0.0

    def give(self, task: Task) -> None:
        self.task, self.started = task, time.monotonic()
        self.pipe.send(task)

    def answer(self, limit: float) -> Row | None:
        """The row of the task, None while it is under way; ends a process that takes too long."""
        try:
            if self.pipe.poll():
                row: Row = self.pipe.recv()
                return row
        except (EOFError, ConnectionResetError):
            self.process.join()
            return given_up(f"Its process ended with exit code {self.process.exitcode}.")
        if time.monotonic() - self.started > limit:
            self.end()
            return given_up(f"It took more than {limit:.0f} seconds.")
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def given_up(reason: str) -> Row:
    """A row that the next sweep does not take for granted."""
    return {"reason": reason, "given up": True}


def run_all(tasks: list[Task], processes: int, limit: float) -> Iterator[tuple[Task, Row]]:
    """Give each task with its row, as they come; whatever one does, the others go on."""
    left = tasks[::-1]
    workers = [Worker() for _ in range(min(processes, len(tasks)))]
    try:
        while left or any(worker.task for worker in workers):
            for worker in workers:
                if worker.task is None and left:
                    worker.give(left.pop())
            wait([worker.pipe for worker in workers if worker.task], timeout=1)
            for place, worker in enumerate(workers):
                row = worker.answer(limit) if worker.task else None
                if worker.task is None or row is None:
                    continue
                yield worker.task, row | {"seconds": round(time.monotonic() - worker.started, 1)}
                worker.task = None
                if not worker.process.is_alive():
                    workers[place] = Worker()
    finally:
        for worker in workers:
            worker.end()


def sweep(tasks: list[Task], results: Path, processes: int, limit: float) -> dict[Task, Row]:
    """Run what is not yet among the results of these versions, and add it to them."""
    known = read(results)
    missing = [task for task in tasks if task not in known]
    with results.open("a", encoding="utf-8") as file:
        progress = tqdm(run_all(missing, processes, limit), total=len(missing), desc=tasks[0][0])
        for task, row in progress:
            known[task] = row
            file.write(json.dumps({"task": task, "versions": VERSIONS, "row": row}) + "\n")
            file.flush()
    return {task: known[task] for task in tasks}


def read(results: Path) -> dict[Task, Row]:
    """Read what a sweep with these versions has found; a line that was cut off is none."""
    found: dict[Task, Row] = {}
    for line in results.read_text("utf-8").splitlines() if results.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["versions"] == VERSIONS and "given up" not in entry["row"]:
            found[tuple(entry["task"])] = entry["row"]
    return found


def sizes_of(row: Row) -> tuple[int, int]:
    return (row["image"]["size"], row["patch"]["size"]) if works(row) else (448, 224)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("runs/backbones.jsonl"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "backbones.md")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one model")
    parser.add_argument(
        "--modules",
        nargs="+",
        choices=timm.list_modules(),
        metavar="MODULE",
        help="of timm, printed; default: all, into --page",
    )
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes
    args.results.parent.mkdir(parents=True, exist_ok=True)
    wanted = args.modules or timm.list_modules()
    modules = {module: timm.list_models(module=module) for module in wanted}
    names = [name for names in modules.values() for name in names]
    options = args.results, args.processes, args.limit
    checks = sweep([("check", name) for name in names], *options)

    def weight(name: str) -> float:
        row = checks["check", name]
        return row["parameters"] if works(row) else float("inf")

    lightest = [min(names, key=weight) for names in modules.values()]
    small = sweep([("check", name, *SMALL) for name in lightest], *options)
    tries = sweep(
        [
            ("try", name, *(SMALL if works(row) else sizes_of(checks["check", name])))
            for (_, name, *_), row in small.items()
        ],
        *options,
    )
    written = page(modules, checks, tries, VERSIONS, classes=CLASSES, batch=BATCH)
    if args.modules:
        print(written)
        return
    for file, text in (
        (args.page, written),
        (args.page.with_suffix(".csv"), rows_of(modules, checks)),
    ):
        with whole_file(file) as path:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
