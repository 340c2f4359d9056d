"""What benchmarks write into pages: tables, and the machine they were measured on."""

from collections.abc import Iterable
from pathlib import Path

import timm
import torch

from recurrent_attention._files import whole_file

ROOT = Path(__file__).parents[1]


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in (heads, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int | None = None) -> str:
    """Name the machine, the threads (those of torch now) and the versions, for below a table."""
    versions = f"torch {torch.__version__}, timm {timm.__version__}"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {versions}"
    about = Path("/proc/cpuinfo").read_text()
    model = about.partition("model name")[2].partition(": ")[2].partition("\n")[0]
    amx = "with AMX" if "amx_bf16" in about else "without AMX"
    half = "with" if "avx512_bf16" in about else "without"
    threads = threads or torch.get_num_threads()
    used = f"{threads} thread{'' if threads == 1 else 's'}"
    return f"{model} ({amx}, {half} AVX-512 bf16), {used}, {versions}"


def fill(page: Path, name: str, text: str) -> None:
    """Put `text` between the two marks of a section, if the page has them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- measured: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    if begin and end:
        with whole_file(page) as path:
            path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
