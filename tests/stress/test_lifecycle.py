"""How a run begins and ends: one at a time in a folder, signals, more epochs, devices."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import QUIET, make_data, make_model, results
from stress.kills import without_times

from recurrent_attention._devices import precision_of
from recurrent_attention.data import Pictures
from recurrent_attention.training import Recipe, RunFolder, evaluate, fit, processes
from recurrent_attention.training.processes import Termination, chosen_device

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
STEPS = Recipe(epochs=2, batch_size=4, schedule="steps", decay_epochs=(1, 3), lr=1e-3, seed=5)
CHILD = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from helpers.runs import make_model
from stress.kills import make_data
from recurrent_attention.training import Recipe, RunFolder, fit
def main():
    folder = Path(sys.argv[1])
    (folder / "pictures").mkdir(exist_ok=True)
    data = make_data(folder / "pictures")
    run = RunFolder(folder / "run", resume=True)
    fit(make_model(), *data, recipe=Recipe(epochs=500, batch_size=4), device="cpu", progress=False,
        run_folder=run, resume=True, num_workers=int(sys.argv[2]))
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def start(tmp_path):
    """Start a long run in a process group of its own, and wait for its first checkpoint."""
    children = []
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD.format(tests=str(Path(__file__).parents[1]))))

    def begin(workers=0, wait=True):
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(workers)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        children.append(child)
        deadline = time.monotonic() + 120
        while wait and not list((tmp_path / "run" / "checkpoints").glob("step-*.pt")):
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("workers", "number", "name", "code"),
    [(2, signal.SIGTERM, "SIGTERM", 143), (0, signal.SIGINT, "Ctrl-C", 130),
     (2, signal.SIGINT, "Ctrl-C", 130)],
)  # fmt: skip
def test_a_signal_to_all_processes_of_the_job_saves_and_says_how_to_go_on(
    start, tmp_path, workers, number, name, code
):
    child = start(workers)
    time.sleep(0.5)
    os.killpg(child.pid, number)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == code
    steps = sorted(int(p.stem[5:]) for p in (tmp_path / "run/checkpoints").glob("step-*.pt"))
    (line,) = said.splitlines()
    assert line.startswith(f"{name}: saved after update {steps[-1]}, in epoch ")
    assert line.endswith(". Start the run again with resume=True (--resume) to go on there.")


@pytest.mark.slow
@posix
def test_workers_leave_signals_to_their_parent_and_end_with_it(start):
    child = start(2)
    listed = subprocess.run(
        ["ps", "--ppid", str(child.pid), "-o", "pid="], capture_output=True, text=True, check=False
    )
    workers = [int(pid) for pid in listed.stdout.split()]
    if not workers:
        pytest.skip("no ps here that lists children")
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(1)
    assert child.poll() is None
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20  # torch's workers look for their parent every five seconds
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@posix
def test_a_second_run_in_the_folder_is_refused_and_a_dead_one_is_taken_over(start, tmp_path):
    first = start()
    second = start(wait=False)
    said = second.communicate(timeout=90)[1].splitlines()[-1]
    assert second.returncode == 1
    assert said.startswith(
        f"FileExistsError: Expected the run's folder {tmp_path / 'run'} to be free, but process "
        f"{first.pid} on "
    )
    assert said.endswith(
        " works in it. Wait until that ends, or end it; the folder of a process that died is taken "
        "over."
    )
    assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    third = start(wait=False)
    owner = tmp_path / "run" / "checkpoints" / "owner.json"
    deadline = time.monotonic() + 90
    while json.loads(owner.read_text())["process"] != third.pid:
        assert third.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_may_open_its_own_run_again_and_frees_it(tmp_path):
    first = RunFolder(tmp_path / "run")
    second = RunFolder(tmp_path / "run", resume=True)
    assert first._lock is second._lock
    lock = first._lock
    assert lock.is_locked
    del first, second
    lock.release()
    assert not lock.is_locked
    assert RunFolder(tmp_path / "run", resume=True)._lock.is_locked


@posix
def test_a_second_ctrl_c_ends_at_once():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def twice():
        with Termination() as termination:
            os.kill(os.getpid(), signal.SIGINT)
            assert termination.asked == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# More epochs than before


@pytest.mark.slow
def test_a_run_with_steps_goes_on_for_more_epochs(colored_pictures, tmp_path):
    data = make_data(colored_pictures)
    whole = make_model()
    longer = replace(STEPS, epochs=4)
    history, best, weights = results(whole, fit(whole, *data, recipe=longer, **QUIET))
    run = RunFolder(tmp_path / "run")
    fit(make_model(), *data, recipe=STEPS, run_folder=run, **QUIET)
    model = make_model()
    run = RunFolder(tmp_path / "run", resume=True)
    found = fit(model, *data, recipe=longer, run_folder=run, resume=True, **QUIET)
    assert results(model, found)[:2] == (history, best)
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert len(without_times({"history": [json.loads(line) for line in lines]})["history"]) == 4


def test_a_cosine_has_its_end(colored_pictures, tmp_path):
    data = make_data(colored_pictures)
    recipe = Recipe(epochs=1, batch_size=8)
    fit(make_model(), *data, recipe=recipe, run_folder=RunFolder(tmp_path / "run"), **QUIET)
    for epochs, sentence in (
        (
            2,
            "Expected to resume with the 1 epochs of {path}, but got 2, and the cosine of the "
            "learning rate ends at the last one. Begin another run from the saved model, or take "
            "schedule='steps'.",
        ),
    ):
        run = RunFolder(tmp_path / "run", resume=True)
        with pytest.raises(ValueError) as caught:
            fit(
                make_model(), *data, recipe=replace(recipe, epochs=epochs), run_folder=run,
                resume=True, **QUIET,
            )  # fmt: skip
        path = tmp_path / "run" / "checkpoints" / "step-000002.pt"
        assert str(caught.value) == sentence.format(path=path)


# Devices


class Fake:
    def __init__(self, count):
        self.count = count

    def is_available(self):
        return self.count > 0

    def device_count(self):
        return self.count


@pytest.fixture
def gpus(monkeypatch):
    def have(cuda=0, mps=0):
        monkeypatch.setattr(processes.torch, "cuda", Fake(cuda))
        monkeypatch.setattr(processes.torch.backends, "mps", Fake(mps))
        monkeypatch.setattr(processes.torch, "xpu", Fake(0))

    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return have


@pytest.mark.parametrize(
    ("device", "counts", "chosen"),
    [
        ("auto", {}, (True, None)),
        ("auto", {"cuda": 1}, (False, None)),
        ("cpu", {"cuda": 1}, (True, None)),
        (torch.device("cpu"), {}, (True, None)),
        ("cuda", {"cuda": 1}, (False, "cuda")),
        ("cuda:1", {"cuda": 2}, (False, "cuda:1")),
        (torch.device("cuda", 1), {"cuda": 2}, (False, "cuda:1")),
        ("mps", {"mps": 1}, (False, "mps")),
    ],
)
def test_devices_by_every_name(gpus, monkeypatch, device, counts, chosen):
    gpus(**counts)
    with chosen_device(device) as cpu:
        assert (cpu, os.environ.get("ACCELERATE_TORCH_DEVICE")) == chosen
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "2")  # each process has its own
    with chosen_device(device) as cpu:
        assert (cpu, os.environ.get("ACCELERATE_TORCH_DEVICE")) == (chosen[0], None)


@pytest.mark.parametrize(
    ("device", "counts", "sentence"),
    [
        (
            "cuda",
            {},
            "Expected a device for device='cuda', but torch finds none. Use device='cpu'.",
        ),
        (
            "cuda:2",
            {"cuda": 2},
            "Expected a device for device='cuda:2', but torch finds 2 of them. Use device='cpu'.",
        ),
        ("mps", {}, "Expected a device for device='mps', but torch finds none. Use device='cpu'."),
        *(
            (
                name,
                {},
                "Expected `device` to be 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu' or a "
                f"torch.device, but got {name!r}.",
            )
            for name in ("tpu", "meta", 1.5, None)
        ),
    ],
)
def test_devices_that_are_not_there(gpus, device, counts, sentence):
    gpus(**counts)
    with pytest.raises(ValueError) as caught, chosen_device(device):
        pass
    assert str(caught.value) == sentence


def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for has_it, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert precision_of("auto", gpu) == wanted
        assert precision_of("auto", cpu) == "fp32"
        assert precision_of("fp16", gpu) == "fp16"


def test_a_torch_device_is_taken(colored_pictures):
    data = make_data(colored_pictures)[1]
    model = make_model()
    device = torch.device("cpu")
    wanted = evaluate(model, data, **QUIET).loss
    assert evaluate(model, data, device=device, progress=False).loss == wanted


# Names


@pytest.mark.slow
@posix
def test_a_run_on_names_that_are_no_utf8(colored_pictures, tmp_path):
    pictures, boxes = colored_pictures
    odd = os.fsdecode(b"\xff.png")
    pictures.path(0).rename(pictures.root / odd)
    boxes = {odd if name == pictures.names[0] else name: box for name, box in boxes.items()}
    renamed = Pictures(pictures.root, [odd, *pictures.names[1:]], pictures.labels, ["red", "blue"])
    data = make_data((renamed, boxes))
    recipe = Recipe(epochs=1, batch_size=8)
    for resume in (False, True):
        run = RunFolder(tmp_path / "run", resume=resume)
        fit(make_model(), *data, recipe=recipe, run_folder=run, resume=resume, **QUIET)
    with pytest.raises(FloatingPointError) as caught:
        fit(make_model(), data[0], recipe=Recipe(lr=1e30, head_lr=1e30), **QUIET)
    assert r"\udcff.png" in str(caught.value)
    str(caught.value).encode("utf-8")
