"""`check` and `backbone`: the reports that they print, and their exit statuses."""

import pytest
from helpers.command import run, start
from helpers.models import photo

from recurrent_attention import check_backbone


@pytest.fixture
def auks(tmp_path):
    folder = tmp_path / "data" / "auk"
    folder.mkdir(parents=True)
    for number in range(9):
        photo(number).save(folder / f"{number}.png")
    return folder


def test_check_of_what_is_in_order(auks):
    found = run("check", auks.parent, "--quiet")
    said = "a folder for each class: 9 pictures of 1 class\nnothing is wrong\n"
    assert (found.exit_code, found.stdout, found.stderr) == (0, said, "")


@pytest.mark.parametrize("workers", [0, 1])
def test_check_lists_the_first_of_each_kind_or_all(auks, workers):
    for number in range(7):
        (auks / f"{number}.png").write_bytes(b"")
    first = run("check", auks.parent, "--num-workers", workers)
    assert (first.exit_code, first.stdout.count("an empty file")) == (1, 5)
    every = run("check", auks.parent, "--num-workers", workers, "--all")
    assert (every.exit_code, every.stdout.count("an empty file")) == (1, 7)


def test_check_of_nothing_is_no_finding(tmp_path):
    for name in ("gone", "."):
        found = run("check", tmp_path / name)
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr.startswith("Error: Expected ")
        assert found.stderr.count("\n") == 1


def test_backbone_prints_the_report_of_the_same_numbers():
    sizes = {"image_size": 64, "patch_size": 32, "batch_size": 4}
    options = [f"--{name.replace('_', '-')}={size}" for name, size in sizes.items()]
    found = run("backbone", "test_resnet", *options, "--patches", 3, "--classes", 7)
    report = check_backbone("test_resnet", num_classes=7, num_patches=3, **sizes)
    assert (found.exit_code, found.stdout, found.stderr) == (0, f"{report}\n", "")
    words = found.stdout.splitlines()
    assert words[0] == "test_resnet works"
    assert words[1].startswith("  global stream: 64 x 64 pixels, map of 96 x 2 x 2, a cell is 32 ")
    assert words[2].endswith(f" {report.local_stream.macs / 1e9:.2f} GMACs a patch")
    assert words[3] == "  other sizes: any"
    total = (report.state_bytes + report.kept_bytes) / 1e9
    assert f"batch size 4, 3 patches an image, float32: {total:.2f} GB" in words[5]
    assert words[6] == (
        "  pictures: pixels in [0, 1], minus (0.5, 0.5, 0.5), divided by (0.5, 0.5, 0.5): -1.00 to "
        "1.00; resized bilinear"
    )


@pytest.mark.slow
def test_backbone_names_near_matches_without_a_traceback():
    said, errors = (process := start("backbone", "vg19")).communicate()
    assert (process.returncode, said, errors) == (1, f"{check_backbone('vg19')}\n", "")


def test_backbone_refuses_numbers_and_folders_that_are_not_there(tmp_path):
    for option in ("--image-size", "--patch-size", "--classes", "--patches", "--batch-size"):
        found = run("backbone", "test_resnet", option, 0)
        assert found.exit_code == 2
        assert f"Invalid value for '{option}': 0 is not in the range x>=1." in found.stderr
    found = run("backbone", f"local-dir:{tmp_path / 'absent'}")
    assert found.exit_code == 2
    assert "absent" in found.stderr
    assert found.stderr.count("\n") == 1
