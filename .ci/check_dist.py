"""Look into a built sdist and wheel: python .ci/check_dist.py DIST."""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    package = {path.relative_to(ROOT).as_posix() for path in python_files("recurrent_attention")}
    metadata = {name for name in in_wheel if ".dist-info/" in name}
    others = {"recurrent_attention/py.typed", "recurrent_attention/training/report.html.jinja"}
    if different := sorted((in_wheel - metadata) ^ package ^ others):
        sys.exit(
            "Expected the wheel to hold the package, py.typed and the report's template alone; "
            f"they differ: {different}."
        )
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        sys.exit("Expected the wheel to hold LICENSE, but it does not.")

    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.relative_to(ROOT).as_posix() for path in python_files("tests", "examples")}
    needed |= package | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "mkdocs.yml"}
    if absent := sorted(needed - in_sdist):
        sys.exit(f"Expected the sdist to hold all that builds and tests it, but not {absent}.")
    for file in (wheel, sdist):
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
