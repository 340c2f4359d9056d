"""The readers that fuzz.py feeds: good files, words of their formats, and what they may raise."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recurrent_attention import TwoStreamClassifier, load_checkpoint
from recurrent_attention._errors import ArgumentError
from recurrent_attention.backbone.creation import SizeError


@dataclass
class Reader:
    """What is fuzzed.

    Attributes:
        seeds: good files, by name; one of them is mutated at a time.
        words: of the format.
        read: takes the folder that holds the files.
        errors: that it documents.
    """

    seeds: dict[str, bytes]
    words: list[bytes]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (ValueError,)


def npy() -> Reader:
    """The authors' patch files."""
    from recurrent_attention.data import Pictures, read_patch_file

    boxes = np.array([[[0, 9, 0, 9, k], [2, 40, 3, 50, k]] for k in (0, 0, 1)], dtype=np.float64)
    folder = Path(tempfile.mkdtemp())
    for number in range(3):
        Image.new("RGB", (20, 10)).save(folder / f"{number}.png")
    pictures = Pictures(folder, [f"{n}.png" for n in range(3)], [0, 0, 1], ["a", "b"])
    seeds = {}
    for version in ((1, 0), (2, 0), (3, 0)):
        path = folder / "x.npy"
        with path.open("wb") as file:
            np.lib.format.write_array(file, boxes, version=version)
        seeds[f"v{version[0]}.npy"] = path.read_bytes()
    words = [
        b"'descr': '<f8'",
        b"'|O'",
        b"'fortran_order': True",
        b"(3, 2, 5)",
        b"(999999999, 10, 5)",
        b"(-1, 2, 5)",
        b"(10**9, 10**9, 5)",
        b"__import__('os').system('id')",
        b"<U9",
        b">f8",
        b"{",
        b"}",
        b"\x93NUMPY",
        b"PK\x03\x04",
    ]
    return Reader(
        seeds, words, lambda root: [read_patch_file(p, pictures) for p in root.glob("*.npy")]
    )


def cub() -> Reader:
    """The text files of CUB-200-2011."""
    from recurrent_attention.data import CUB200

    names = ["001.A/x.jpg", "001.A/y.jpg", "002.B/z.jpg", "002.B/w.jpg"]
    rows = {
        "images.txt": [f"{n + 1} {name}" for n, name in enumerate(names)],
        "image_class_labels.txt": [f"{n + 1} {1 + n // 2}" for n in range(4)],
        "train_test_split.txt": [f"{n + 1} {n % 2}" for n in range(4)],
        "classes.txt": ["1 001.A", "2 002.B"],
        "bounding_boxes.txt": [f"{n + 1} 1.0 2.0 30.5 40.0" for n in range(4)],
        "parts/parts.txt": ["1 back", "2 left eye"],
        "parts/part_locs.txt": [f"{n + 1} {p} 10.0 20.0 {p % 2}" for n in range(4) for p in (1, 2)],
    }
    seeds = {name: ("\n".join(lines) + "\n").encode() for name, lines in rows.items()}
    words = [
        b"1 001.A/x.jpg\n",
        b"../../etc/passwd",
        b"/etc/passwd",
        b"1e999",
        b"nan",
        b"-1",
        b"0",
        b"5",
        b"\r\n",
        b"999999999999999999999",
        b"\xef\xbb\xbf",
        "\u0663".encode(),
        b"1_0",
        b"\t",
        b"\x0b",
        b"3 7\n",
    ]

    def read(root: Path) -> object:
        (root / "images").mkdir(exist_ok=True)
        return [CUB200(root, split) for split in ("train", "test")]

    return Reader(seeds, words, read)


def boxes_json() -> Reader:
    """Our files of boxes."""
    from recurrent_attention.data import Pictures, read_boxes

    folder = Path(tempfile.mkdtemp())
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    pictures = Pictures(folder, ["a.png"], [0], ["a"])
    boxes = {
        "boxes": {"a.png": [[0.0, 0.0, 5.5, 5.0], [1.0, 2.0, 20.0, 10.0]], "b": [[0, 0, 1, 1]]}
    }
    words = [b"NaN", b"1e999", b'"boxes"', b"a.png", b"[", b"]", b"{", b"}", b"null", b"-0.0"]
    return Reader(
        {"boxes.json": json.dumps(boxes).encode()},
        words,
        lambda root: read_boxes(root / "boxes.json", pictures),
    )


def boxes_tensors() -> Reader:
    """The same as tensors."""
    from recurrent_attention.data import Pictures, read_boxes, write_boxes

    folder = Path(tempfile.mkdtemp())
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    pictures = Pictures(folder, ["a.png"], [0], ["a"])
    boxes = {"a.png": [[0.0, 0.0, 5.5, 5.0], [1.0, 2.0, 20.0, 10.0]], "b": [[0, 0, 1, 1]]}
    write_boxes(folder / "boxes.safetensors", boxes)
    words = [b"F32", b"I64", b"U8", b'"boxes"', b"a.png", b"data_offsets", b"[", b"]", b"0", b"-1"]
    return Reader(
        {"boxes.safetensors": (folder / "boxes.safetensors").read_bytes()},
        words,
        lambda root: read_boxes(root / "boxes.safetensors", pictures),
    )


def dogs() -> Reader:
    """The lists and the annotations of Stanford Dogs."""
    import scipy.io

    from recurrent_attention.data import StanfordDogs

    names = ["n01-Pug/a.jpg", "n01-Pug/b.jpg", "n02-Corgi/c.jpg"]
    seeds = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mat"
        for part in ("train", "test"):
            cell = np.empty((3, 1), dtype=object)
            cell[:, 0] = names
            rows = {"file_list": cell, "labels": np.array([[1.0], [1.0], [2.0]])}
            scipy.io.savemat(path, rows, do_compression=part == "test")
            seeds[f"{part}_list.mat"] = path.read_bytes()
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    text = f"<annotation><object><name>Pug</name>{box}</object></annotation>".encode()
    seeds |= {f"Annotation/{name[:-4]}": text for name in names}
    words = [
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
        b"&b;",
        b"&#0;",
        b"<![CDATA[",
        b"<?xml",
        b"<bndbox>",
        b"</bndbox>",
        b"nan",
        b"1e999",
        b"\x0e\x00\x00\x00",
        b"\x0f\x00\x00\x00",
        b"MI",
        b"IM",
        b"\x00\x01",
        b"\x00\x02",
        b"../../etc/passwd",
        b"labels",
        b"file_list",
        b"\xff\xff\xff\x7f",
    ]

    def read(root: Path) -> object:
        (root / "Images").mkdir(exist_ok=True)
        return [StanfordDogs(root, split).bounding_boxes for split in ("train", "test")]

    return Reader(seeds, words, read, (ValueError, FileNotFoundError))


def small_model() -> TwoStreamClassifier:
    torch.manual_seed(0)
    return TwoStreamClassifier(
        "test_resnet", 2, image_size=32, patch_size=32, hidden_size=8, class_names=["a", "b"]
    )


def saved_model() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        small_model().save_pretrained(folder)
        return {name: (Path(folder) / name).read_bytes() for name in MODEL_FILES}


MODEL_FILES = ("config.json", "model.safetensors")


def config() -> Reader:
    """config.json beside good weights."""
    files = saved_model()
    words = [b"pretrained", b"checkpoint_path", b"pretrained_cfg", b"url", b"file", b"hf_hub_id"]
    words += [
        b"scriptable",
        b"features_only",
        b"NaN",
        b"1e999",
        b"{",
        b"]",
        b'"',
        b"\\ud800",
        b"null",
    ]

    def read(root: Path) -> object:
        (root / MODEL_FILES[1]).write_bytes(files[MODEL_FILES[1]])
        return TwoStreamClassifier.from_pretrained(root)

    # The package's own kinds of ValueError, for arguments that a model cannot be built from.
    errors = (ValueError, ArgumentError, SizeError)
    return Reader({"config.json": files["config.json"]}, words, read, errors)


def safetensors() -> Reader:
    """Weights beside a good config.json."""
    files, model = saved_model(), small_model()
    words = [b'"F32"', b'"F64"', b'"BF16"', b'"I64"', b'"BOOL"', b"data_offsets", b"[0,0]", b"[-1]"]
    words += [b"__metadata__", b'{"a":{', b"}", b"18446744073709551615", b"[1,2,3,4,5,6,7,8,9]"]

    def read(root: Path) -> object:
        return load_checkpoint(model, root / MODEL_FILES[1])

    return Reader({MODEL_FILES[1]: files[MODEL_FILES[1]]}, words, read)


def pth() -> Reader:
    """State dicts of torch.save: the zipped format and the old one."""
    model = small_model()
    seeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, zipped in (("new.pth", True), ("old.pth", False)):
            path = Path(folder) / name
            weights = {"state_dict": model.state_dict()}
            torch.save(weights, path, _use_new_zipfile_serialization=zipped)
            seeds[name] = path.read_bytes()
    words = [
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"R.",
        b"(S'id'\ntR.",
        b"ctorch\nload\n",
        b"\x80\x02",
    ]
    words += [b"cbuiltins\nbytearray\n", b"PK\x03\x04", b"PK\x05\x06", b"FloatStorage", b"\xff" * 8]

    def read(root: Path) -> object:
        return [load_checkpoint(model, root / name) for name in seeds]

    return Reader(seeds, words, read)


def onnx() -> Reader:
    """A file of export_onnx(graph="predict")."""
    from recurrent_attention.export import OnnxClassifier, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(small_model(), path, graph="predict")
        seed = path.read_bytes()
    words = [
        b"images",
        b"global_map",
        b"Conv",
        b"If",
        b"Loop",
        b"config",
        b"cell_offset",
        b"{",
        b"}",
    ]
    words += [b"external", b"location", b"/etc/passwd", b"\x08\x01", b"\x70\x01", b"\xff" * 8]
    return Reader(
        {"model.onnx": seed},
        words,
        lambda root: OnnxClassifier(root / "model.onnx"),
        (ValueError, ArgumentError, SizeError),
    )


READERS = {
    "npy": npy,
    "images.txt": cub,
    "mat": dogs,
    "config.json": config,
    "safetensors": safetensors,
    "pth": pth,
    "boxes.json": boxes_json,
    "boxes.safetensors": boxes_tensors,
    "onnx": onnx,
}
