"""`cub_reproduce.py --protocol paper`: each row of "Differences from the paper", done as there."""

import numpy as np
import pytest
import torch
from PIL import Image

from recurrent_attention.data import PictureFolder, TwoStreamDataset
from recurrent_attention.training import FitResult
from recurrent_attention.training.optimization import Schedule, build_optimizer

SIDE = 64
TINY = ["--backbone", "test_resnet", "--image-size", str(SIDE), "--patch-size", "32"]
TINY += ["--hidden-size", "16", "--pictures-per-class", "2", "--device", "cpu"]


class Asked(Exception):  # noqa: N818  # it is no error
    """Raised instead of training, with what was to be trained."""


@pytest.fixture(scope="module")
def job(example):
    return example("cub_reproduce")


@pytest.fixture
def asked(job, tmp_path, tmp_path_factory, monkeypatch):
    """What `fit` is asked for: model, training data, held-out data and recipe."""
    cache = tmp_path_factory.getbasetemp() / "paper-birds"

    def ask(*arguments):
        def fit(model, data, held_out, *, recipe, **_):
            raise Asked(model, data, held_out, recipe)

        monkeypatch.setattr(job, "fit", fit)
        where = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(cache)]
        with pytest.raises(Asked) as caught:
            job.main(["--protocol", "paper", *TINY, *where, *arguments])
        return caught.value.args

    return ask


def test_patches_are_cut_out_of_the_resized_square(job, tmp_path):
    """A fine checkerboard is gray once it is resized, and is not where it is cut out before."""
    (tmp_path / "a").mkdir()
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).convert("RGB").save(tmp_path / "a" / "0.png")
    square = job.Squared(PictureFolder(tmp_path), SIDE)
    assert square.size(0) == (SIDE, SIDE)
    assert square[0][0].size == (SIDE, SIDE)
    look = {"mean": (0, 0, 0), "std": (1, 1, 1), "image_size": SIDE, "patch_size": 32}
    data = TwoStreamDataset(square, {"a/0.png": [[30, 30, 34, 34]]}, **look)
    assert data[0].patches.std() < 0.05
    whole = TwoStreamDataset(PictureFolder(tmp_path), {"a/0.png": [[30, 30, 34, 34]]}, **look)
    assert whole[0].patches.std() > 0.3


@pytest.mark.slow
def test_boxes_are_those_of_the_file_on_the_resized_square(asked):
    _, data, held_out, _ = asked()
    for shown, file in ((data, "train_patches.npy"), (held_out, "test_patches.npy")):
        folder = shown.pictures.root.parent / "patches"
        rows = np.load(folder / file)
        names = sorted(
            path.relative_to(shown.pictures.root).as_posix()
            for path in shown.pictures.root.rglob("*.jpg")
        )
        listed = {line.split()[1]: line.split()[0] for line in lines(folder, "images.txt")}
        train = dict(map(str.split, lines(folder, "train_test_split.txt")))
        wanted = "1" if file.startswith("train") else "0"
        names = [name for name in names if train[listed[name]] == wanted]
        assert len(names) == len(rows)
        for name in shown.pictures.names:
            y0, y1, x0, x1 = rows[names.index(name)][:, :4].T
            found = np.stack([x0, y0, x1, y1], axis=1) * SIDE / 448
            assert np.allclose(shown.boxes[name], found, atol=1e-4)


def lines(folder, name):
    return (folder.parent / name).read_text().splitlines()


def test_one_random_patch_in_training_and_at_test_and_no_flip(asked):
    _, data, held_out, _ = asked()
    for shown in (data, held_out):
        drawn = set()
        whole = shown.fixed_views(0)[1]
        image = shown[0].image
        for seed in range(40):
            torch.manual_seed(seed)
            sample = shown[0]
            assert sample.patches.shape[0] == 1
            assert torch.equal(sample.image, image)  # never mirrored, never cropped
            (same,) = [n for n, one in enumerate(whole) if torch.equal(one, sample.patches[0])]
            drawn.add(same)
        assert drawn == set(range(10))  # any of the ten, not the first


@pytest.mark.slow
def test_the_epoch_is_picked_on_test_and_test_is_what_it_then_says(
    job, asked, tmp_path, monkeypatch
):
    _, _, held_out, recipe = asked()
    names = held_out.pictures.names
    assert recipe.choose_epoch_by == "fused"
    test = {
        line.split()[1]: line.split()[0] for line in lines(held_out.pictures.root, "images.txt")
    }
    marks = dict(map(str.split, lines(held_out.pictures.root, "train_test_split.txt")))
    assert {marks[test[name]] for name in names} == {"0"}

    record = {"images_per_second": 1.0, "val_images_per_second": 1.0, "val_loss": 1.0}
    record |= {"val_global": 0.25, "val_local": 0.5, "val_fused": 0.75}
    worse = record | {"val_fused": 0.1}
    monkeypatch.setattr(job, "fit", lambda *_, **__: FitResult([worse, record, worse], 2))
    monkeypatch.setattr(job, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(job, "explain_some", lambda *_: None)

    def evaluate(*_, **__):
        raise AssertionError("the test pictures are not looked at again")

    monkeypatch.setattr(job, "evaluate", evaluate)
    where = ["--run-dir", str(tmp_path / "again"), "--cache-dir", str(tmp_path / "cache")]
    result = job.main(["--protocol", "paper", *TINY, *where])
    assert (result["chosen_on"], result["best_epoch"]) == ("test", 2)
    assert [result[f"test_{stream}"] for stream in ("global", "local", "fused")] == [
        0.25,
        0.5,
        0.75,
    ]


def test_sgd_and_its_steps(asked):
    model, _, _, recipe = asked()
    optimizer = build_optimizer(model, recipe)
    assert type(optimizer) is torch.optim.SGD
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {5e-4}
    assert (recipe.batch_size, recipe.label_smoothing, recipe.local_weight) == (32, 0, 1)
    schedule = Schedule(optimizer, recipe, updates_per_epoch=2)
    rates = []
    for _ in range(2 * recipe.epochs):
        rates.append(schedule.rates()[0])
        optimizer.step()
        schedule.step()
    wanted = [1e-3] * 60 + [1e-4] * 60 + [1e-5] * 60
    assert rates == pytest.approx(wanted)


def test_the_lstm_starts_as_torch_starts_it(asked):
    model, *_ = asked()
    bound = 16**-0.5
    for cell in model.attention.cells:
        for weight in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh):
            weight = weight.detach()
            assert weight.abs().max() <= bound
            assert float(weight.std()) == pytest.approx(
                bound / 3**0.5, rel=0.2
            )  # of a uniform draw
        gate = cell.weight_hh[:16].detach()
        assert not torch.allclose(gate @ gate.T, torch.eye(16), atol=0.1)  # not orthogonal


def test_the_two_convolutions_and_equal_weights(asked):
    model, *_ = asked()
    kinds = [type(layer).__name__ for layer in model.global_convs]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU"]
    assert [layer.out_channels for layer in model.global_convs[::2]] == [1024, 1024]
    assert [layer.kernel_size for layer in model.global_convs[::2]] == [(1, 1), (1, 1)]
    assert (model.fusion_weight, model.patch_weighting) == (1.0, "equal")
    assert model.attention.num_steps == 10
