"""Feed damaged and hostile files to the readers.

    OMP_NUM_THREADS=1 python tests/fuzz.py --inputs 100000

Good files are mutated, from a seed: bits and bytes flipped, pieces cut out, doubled, moved or joined with
another file's, numbers made extreme, words of the format put in. Of each reader no input may crash the
interpreter, hang, run code, reach out to the network, or raise anything but the documented errors.
"""

import argparse
import json
import multiprocessing
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

SECONDS = 10  # an input that takes longer hangs
MEMORY = 6_000_000_000  # bytes of address space beyond what the imports took
FORBIDDEN = {  # audit events that no reader has a reason for
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "pickle.find_class", "marshal.loads", "ctypes.dlopen",
    "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.chmod", "os.link", "os.symlink",
}  # fmt: skip


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


def mutate(data: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """Damage a file in one to four places."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        at = chance.randrange(len(found) + 1)
        end = min(len(found), at + chance.choice((1, 1, 2, 4, 8, 16, 64, 256)))
        kind = chance.randrange(10)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            found[at:end] = chance.randbytes(end - at)
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            found[at:at] = found[at:end] * chance.choice((1, 2, 50))
        elif kind == 5:
            to = chance.randrange(len(found) + 1)
            found[to:to] = found[at:end]
        elif kind == 6:
            width, form = chance.choice(((1, "b"), (2, "h"), (4, "i"), (8, "q")))
            value = chance.choice((-1, 0, 1, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1))))
            found[at : at + width] = struct.pack("<" + form, value)
        elif kind == 7:
            found[at:at] = chance.choice(words)
        elif kind == 8:
            found[at:end] = chance.choice(words)
        else:
            found[at:end] = chance.choice((b"\x00", b"\xff", b"9", b"\n", b" ", b"-", b"e")) * (
                end - at
            )
    return bytes(found)


def mutate_json(data: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """Put a wrong value somewhere into a JSON document, or damage its bytes."""
    if chance.random() < 0.3:
        return mutate(data, words, chance)
    document = json.loads(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and chance.random() < 0.6:
                place = place[key]
                continue
            kind = chance.randrange(8)
            if kind == 0 and isinstance(place, dict):
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[chance.choice(words).decode(errors="replace")] = place[key]
            else:
                place[key] = chance.choice(NASTY)(chance)
            break
    return json.dumps(document).encode()


NASTY: list[Callable[[random.Random], object]] = [
    lambda c: None,
    lambda c: c.choice((True, False)),
    lambda c: c.choice((0, -1, 1, 2, 3, 7, 10**3, 10**6, 10**9, 10**12, 2**31, 2**63, -(2**63), 10**400)),
    lambda c: c.choice((0.0, -0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf"))),
    lambda c: c.choice(("", "x", "../../etc/passwd", "/etc/passwd", "local-dir:/etc", "hf-hub:a/b")),
    lambda c: c.choice(("vgg19", "resnet18", "test_vit", "test_resnet.r160_in1k", "\x00", "é" * 3)),
    lambda c: "A" * c.choice((10, 1000, 100_000)),
    lambda c: [],
    lambda c: {},
    lambda c: [c.choice((1, "a", None, 1e9))] * c.choice((1, 3, 200, 1000)),
    lambda c: {"url": "http://127.0.0.1:9/x", "file": "/etc/passwd", "hf_hub_id": "a/b"},
    lambda c: {c.choice(("pretrained", "checkpoint_path", "scriptable", "depth")): c.choice((1, True))},
]  # fmt: skip


class Hang(BaseException):
    """Nothing that a reader could catch."""


def fuzz(name: str, inputs: int, seed: int, done: "multiprocessing.Value", result: object) -> None:
    """Feed one reader, in a process of its own; `done` counts the inputs."""
    reader = READERS[name]()
    chance = random.Random(f"{name}-{seed}")
    torch.set_num_threads(1)
    seen: list[str] = []
    watching = [False]

    def watch(event: str, arguments: tuple) -> None:
        if watching[0] and event in FORBIDDEN:
            seen.append(f"{event}{arguments}")

    def hang(*_: object) -> None:
        raise Hang

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, hang)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    faults: list[tuple[int, str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for file, data in reader.seeds.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(data)
        reader.read(root)  # the good ones are read
        for number in range(inputs):
            file = chance.choice(list(reader.seeds))
            change = mutate_json if file.endswith(".json") else mutate
            data = change(reader.seeds[file], reader.words, chance)
            (root / file).write_bytes(data)
            fault = ""
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            watching[0] = True
            try:
                reader.read(root)
                counts["read"] += 1
            except Hang:
                fault = f"hung for {SECONDS} seconds"
            except BaseException as error:
                counts[type(error).__name__] += 1
                # Of the documented type itself, and with a sentence of ours.
                if type(error) not in reader.errors or not str(error).startswith("Expected"):
                    fault = f"{type(error).__name__}: {error}"
            finally:
                watching[0] = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            if seen:
                fault = "; ".join(seen)
                seen.clear()
            if fault:
                faults.append((number, f"{file}: {fault[:500]}", data))
            (root / file).write_bytes(reader.seeds[file])
            done.value = number + 1
            if len(faults) >= 20:
                break
    result.put((dict(counts), faults))


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
    words = [b"'descr': '<f8'", b"'|O'", b"'fortran_order': True", b"(3, 2, 5)", b"(999999999, 10, 5)",
             b"(-1, 2, 5)", b"(10**9, 10**9, 5)", b"__import__('os').system('id')", b"<U9", b">f8", b"{", b"}",
             b"\x93NUMPY", b"PK\x03\x04"]  # fmt: skip
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
    words = [b"1 001.A/x.jpg\n", b"../../etc/passwd", b"/etc/passwd", b"1e999", b"nan", b"-1", b"0", b"5", b"\r\n",
             b"999999999999999999999", b"\xef\xbb\xbf", "\u0663".encode(), b"1_0", b"\t", b"\x0b", b"3 7\n"]  # fmt: skip

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
    words = [b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", b"&b;", b"&#0;", b"<![CDATA[", b"<?xml",
             b"<bndbox>", b"</bndbox>", b"nan", b"1e999", b"\x0e\x00\x00\x00", b"\x0f\x00\x00\x00", b"MI", b"IM",
             b"\x00\x01", b"\x00\x02", b"../../etc/passwd", b"labels", b"file_list", b"\xff\xff\xff\x7f"]  # fmt: skip

    def read(root: Path) -> object:
        (root / "Images").mkdir(exist_ok=True)
        return [StanfordDogs(root, split).bounding_boxes for split in ("train", "test")]

    return Reader(seeds, words, read, (ValueError, FileNotFoundError))


READERS = {"npy": npy, "images.txt": cub, "mat": dogs, "boxes.json": boxes_json}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each (default: 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    failed = False
    for name in args.readers or READERS:
        done, queue = context.Value("q", 0), context.SimpleQueue()
        worker = context.Process(target=fuzz, args=(name, args.inputs, args.seed, done, queue))
        started = time.monotonic()
        worker.start()
        bar = tqdm(total=args.inputs, desc=name, disable=not sys.stderr.isatty())
        counts, faults = {}, []
        while worker.is_alive() or not queue.empty():
            if not queue.empty():
                counts, faults = queue.get()
                break
            bar.update(done.value - bar.n)
            time.sleep(0.1)
        bar.close()
        worker.join()
        if worker.exitcode:
            faults.append((done.value, f"the interpreter ended with code {worker.exitcode}", b""))
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        seconds = time.monotonic() - started
        print(f"{name}: {done.value} inputs, {len(faults)} faults ({kinds}; {seconds:.0f} s)")
        for number, fault, data in faults[:20]:
            print(f"  input {number}: {fault}\n    {data[:300]!r}")
        failed |= bool(faults) or done.value < args.inputs
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
