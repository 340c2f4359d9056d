"""Two processes against one, and a process that dies."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from stress.kills import without_times

from recurrent_attention.training import networks, processes

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="torchrun was tried on POSIX only"),
    pytest.mark.slow,
]


def launch(*arguments):
    script = Path(__file__).parents[1] / "stress" / "two_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    return subprocess.run(
        [*command, "2", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    done = launch(folder)
    assert done.returncode == 0, done.stderr
    script = Path(__file__).parents[1] / "stress" / "two_processes.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    # What a test writes itself may be read with pickle: the history is no tensor.
    one, two = (torch.load(folder / f"found-{n}.pt", weights_only=False) for n in (1, 2))
    return folder, one, two


@pytest.mark.parametrize(("kind", "rtol"), [("trained", 1e-7), ("frozen", 1e-4)])
def test_two_processes_train_as_one_with_the_same_batch(found, kind, rtol):
    """Batch norms, order, flips, patches, frozen features: the same; in float64 but for frozen."""
    _, one, two = found
    for name, value in one[kind][0].items():
        torch.testing.assert_close(two[kind][0][name], value, rtol=rtol, atol=rtol / 10, msg=name)
    histories = [without_times({"history": some[kind][1]})["history"] for some in (one, two)]
    for theirs, ours in zip(*histories, strict=True):
        assert ours.pop("lr") == theirs.pop("lr")
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_evaluation_counts_each_picture_once(found):
    _, one, two = found
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-6)
    assert two["evaluation"][-1] == 18


def test_processes_propose_the_same_boxes(found):
    _, one, two = found
    for name, value in one["head"].items():
        torch.testing.assert_close(two["head"][name], value)
    assert list(one["boxes"]) == list(two["boxes"])
    for name, boxes in one["boxes"].items():
        torch.testing.assert_close(two["boxes"][name], boxes)


def test_each_file_is_read_once_for_its_key_by_one_process(found):
    _, one, two = found
    ((*alone,),) = one["read"]
    assert len(set(alone)) == len(alone) == 24
    assert sorted(name for own in two["read"] for name in own) == sorted(alone)
    assert [len(own) for own in two["read"]] == [12, 12]


def test_there_is_one_run_folder(found):
    folder, _, _ = found
    lines = (folder / "run-2" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    names = [sorted(p.name for p in (folder / f"run-{n}").rglob("*")) for n in (1, 2)]
    assert names[0] == names[1]


def test_a_process_that_dies_ends_the_run(tmp_path):
    done = launch(tmp_path, "--die")
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_by_sums_equals_torchs(monkeypatch, shape, affine):
    """With the sums of one process; two are compared above."""
    monkeypatch.setattr(networks, "sum_over_processes", lambda tensor: tensor)
    monkeypatch.setattr(networks, "PartialState", lambda: type("S", (), {"num_processes": 1}))
    torch.manual_seed(0)
    values = [(3 * torch.randn(shape, dtype=torch.float64) + 7).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        values[1].copy_(values[0])
    outputs, statistics = [], []
    weights = torch.randn(2, 3, dtype=torch.float64) if affine else [None, None]
    for value, function in zip(values, (F.batch_norm, networks._batch_norm), strict=True):
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        outputs.append(function(value, mean, var, *weights, True, 0.2, 1e-5))
        (outputs[-1] ** 3).sum().backward()
        statistics.append((mean, var))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(statistics[1], statistics[0])
    torch.testing.assert_close(values[1].grad, values[0].grad, rtol=1e-6, atol=1e-8)


class OfTwoError(Exception):
    def __init__(self, name, value):
        super().__init__(f"{name} is {value}")  # its pickle cannot be built again


@pytest.mark.parametrize("kind", ["local", "of two"])
def test_an_error_that_no_pickle_holds_reaches_the_other_processes(monkeypatch, kind):
    class LocalError(Exception):
        pass

    error = LocalError("the quota is 3") if kind == "local" else OfTwoError("the quota", 3)
    sent = []

    def send(objects):
        sent.extend(pickle.loads(pickle.dumps(objects)))
        return sent

    def fail():
        raise error

    monkeypatch.setattr(processes, "broadcast_object_list", send)
    with pytest.raises(type(error)) as caught:
        processes.from_main(fail)
    assert caught.value is error  # in the main process
    assert isinstance(sent[1], RuntimeError)
    assert str(sent[1]) == f"{type(error).__name__}: the quota is 3"
