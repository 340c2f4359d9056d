"""A folder per class: the layout that most people's own pictures have."""

from pathlib import Path

from recurrent_attention.data.pictures import Pictures, pictures_under


class PictureFolder(Pictures):
    """Read `root/class name/any/where/picture.jpg`: each folder under `root` is a class.

    Classes and files are sorted by name; hidden files and files that are not pictures are left out.

    Args:
        root: the folder that holds one folder for each class.
        class_names: the classes and their order, to give a second folder (test pictures) the labels
            of a first one; default: the folders found, sorted.

    Raises:
        FileNotFoundError: if `root` is missing, or holds no folder with pictures.
        ValueError: if a folder is not in `class_names`.

    Example:
        >>> import tempfile; from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("wren", "finch"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(root / name / "1.png")
        >>> PictureFolder(root).class_names, PictureFolder(root).names
        (('finch', 'wren'), ('finch/1.png', 'wren/1.png'))
    """

    def __init__(self, root: str | Path, *, class_names: tuple[str, ...] | None = None) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"Expected a folder with one folder for each class at {root}, but there is none."
            )
        by_class = {folder.name: pictures_under(folder) for folder in _visible(root)}
        by_class = {name: files for name, files in by_class.items() if files}
        if not by_class:
            found = ", ".join(entry.name for entry in sorted(root.iterdir())[:5]) or "nothing"
            raise FileNotFoundError(
                f"Expected {root} to hold one folder of pictures for each class, but found "
                f"{found}. Put pictures at CLASS/NAME.jpg below it."
            )
        if class_names is None:
            class_names = tuple(sorted(by_class))
        unknown = sorted(set(by_class) - set(class_names))
        if unknown:
            raise ValueError(
                f"Expected the folders of {root} to be among the {len(class_names)} known classes, "
                f"but got {unknown[0]!r}. Rename or remove that folder."
            )
        names, labels = [], []
        for label, class_name in enumerate(class_names):
            for file in by_class.get(class_name, ()):
                names.append(file.relative_to(root).as_posix())
                labels.append(label)
        super().__init__(root, names, labels, class_names)


def _visible(root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."]
