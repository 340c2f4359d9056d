"""Feed damaged and hostile files to the readers.

    OMP_NUM_THREADS=1 python tests/stress/fuzz.py --inputs 100000

Good files are mutated, from a seed: bits and bytes flipped, pieces cut out, doubled or moved,
numbers made extreme, words of the format put in. Of each reader no input may crash the interpreter,
hang, run code, reach out to the network, or raise anything but the documented errors.
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
from pathlib import Path

from fuzz_readers import READERS
from tqdm import tqdm

SECONDS = 10  # an input that takes longer hangs
MEMORY = 6_000_000_000  # bytes of address space beyond what the imports took
FORBIDDEN = {  # audit events that no reader has a reason for
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen",
    "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.chmod", "os.link", "os.symlink",
}  # fmt: skip


def mutate(data: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """Damage a file in one to four places."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        at = chance.randrange(len(found) + 1)
        if chance.random() < 0.8:  # of a large file, what describes it stands at one of its ends
            at = min(at, chance.randrange(2000))
            at = len(found) - at if chance.random() < 0.4 and len(found) > 4000 else at
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
    lambda c: c.choice((0, -1, 1, 2, 3, 7, 10**3, 10**6, 10**9, 10**12, 2**63, -(2**63), 10**400)),
    lambda c: c.choice((0.0, -0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf"))),
    lambda c: c.choice(("", "x", "../../etc/passwd", "/etc/passwd", "local-dir:/", "hf-hub:a/b")),
    lambda c: c.choice(("vgg19", "test_vit", "test_resnet.r160_in1k", "\x00", "\u00e9" * 3)),
    lambda c: "A" * c.choice((10, 1000, 100_000)),
    lambda c: [],
    lambda c: {},
    lambda c: [c.choice((1, "a", None, 1e9))] * c.choice((1, 3, 200, 1000)),
    lambda c: {"url": "http://127.0.0.1:9/x", "file": "/etc/passwd", "hf_hub_id": "a/b"},
    lambda c: {c.choice(("pretrained", "checkpoint_path", "scriptable")): c.choice((1, True))},
]


class Hang(BaseException):
    """Nothing that a reader could catch."""


def fuzz(name: str, inputs: int, seed: int, done: "multiprocessing.Value", result: object) -> None:
    """Feed one reader, in a process of its own; `done` counts the inputs."""
    reader = READERS[name]()
    chance = random.Random(f"{name}-{seed}")
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
