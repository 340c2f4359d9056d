"""Many files at once: worker processes read, batches are answered, a bad file stops nothing."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from recurrent_attention._workers import leave_signals
from recurrent_attention.images.reading import Mode, open_picture
from recurrent_attention.images.views import mode_of
from recurrent_attention.inference.prediction import Prediction, predict
from recurrent_attention.network import TwoStreamNetwork

FILES_AT_ONCE = 16  # that are read before they are answered


class FileAnswer(NamedTuple):
    """What a model says about one file.

    Attributes:
        path: of the file, as it was given.
        prediction: None where the file could not be read.
        reason: why it could not, in one sentence; "" where it could.
    """

    path: Path
    prediction: Prediction | None
    reason: str


def predict_files(
    model: TwoStreamNetwork,
    paths: Sequence[str | PathLike[str]],
    *,
    top_k: int = 5,
    looks: int | None = None,
    confidence: float | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> Iterator[FileAnswer]:
    """Name what is on each of many files; one that cannot be read is an answer with its reason.

    Args:
        model: it stays as it is.
        paths: of pictures, as many as you like.
        top_k: as in `TwoStreamClassifier.predict`.
        looks: as there.
        confidence: as there.
        num_workers: processes that read; 0 is this one.
        progress: show a bar.

    Yields:
        A `FileAnswer` for each path, in their order.

    Raises:
        ValueError: if the model takes channels that no file is read with.

    Example:
        >>> import tempfile
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", 2, image_size=64, patch_size=32)
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (80, 60)).save(folder / "good.png")
        >>> _ = (folder / "bad.png").write_text("no picture")
        >>> files = [folder / "good.png", folder / "bad.png"]
        >>> [answer.prediction is None for answer in predict_files(model, files, progress=False)]
        [False, True]
    """
    files = _Files([Path(path) for path in paths], mode_of(model.global_backbone.in_chans))
    loader: DataLoader[Any] = DataLoader(
        files,
        FILES_AT_ONCE,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # from which the loader draws a seed
        worker_init_fn=leave_signals,
    )
    done = 0
    with tqdm(total=len(files), desc="predict", unit="picture", disable=not progress) as bar:
        for batch in loader:
            pictures = [picture for picture, _ in batch if picture is not None]
            answers = predict(
                model,
                pictures,
                boxes=None,
                patches=None,
                top_k=top_k,
                looks=looks,
                confidence=confidence,
            )
            waiting = iter(answers if isinstance(answers, list) else [answers])
            for picture, reason in batch:
                found = None if picture is None else next(waiting)
                yield FileAnswer(files.paths[done], found, reason)
                done += 1
            bar.update(len(batch))


class _Files(Dataset[tuple[Image.Image | None, str]]):
    def __init__(self, paths: list[Path], mode: Mode) -> None:
        self.paths, self.mode = paths, mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image | None, str]:
        try:
            return open_picture(self.paths[index], mode=self.mode), ""
        except (OSError, ValueError) as error:
            return None, str(error)
