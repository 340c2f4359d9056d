"""What an explanation holds, and how it becomes a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Explanation:
    """What both streams of a `TwoStreamClassifier` saw that speaks for one class an image.

    The unit of a map's cell is logits: before its negative cells were cut to 0, a map sums to the
    gradient of the logit times the pooled features. Nothing is scaled, so steps, patches and images
    can be compared, each stream with itself.

    Attributes:
        step_maps: (b p t h w) at least 0; what speaks for the target in each look at each patch.
        global_map: (b h w) at least 0; what speaks for it in the whole image.
        step_weights: (b p t) the temporal attention; sums to 1 over t.
        patch_weights: (b p) the learned attention over the patches, or None where they count alike.
        step_logits: (b p t k) what each step would answer by itself.
        logits: (b k) of both streams.
        global_logits: (b k) of the whole image.
        local_logits: (b k) of the patches.
        target: (b) the class explained, an index in [0, k).
        images: (b 3 h w) as given.
        patches: (b p 3 h w) as given.
        boxes: (b p 4) where the patches lie, xyxy in pixels of `images`, or None.
        pictures: b upright pictures that the images were made of, or None for each that was a
            tensor.
        cell_offsets: called, it tells how far off the middle of their tiles the cells of the global
            and of the step maps look, in tiles (`measure_cell_offset`). A figure asks; it takes a
            pass of each backbone, once a model.
        class_names: k names, or None.
        mean: per channel, with which the images were normalised.
        std: per channel.
    """

    step_maps: Tensor
    global_map: Tensor
    step_weights: Tensor
    patch_weights: Tensor | None
    step_logits: Tensor
    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor
    target: Tensor
    images: Tensor
    patches: Tensor
    boxes: Tensor | None
    pictures: tuple[Image.Image | None, ...]
    cell_offsets: Callable[[], tuple[float, float]]
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __repr__(self) -> str:
        shape = " ".join(map(str, self.step_maps.shape))
        return f"Explanation(step_maps=({shape}), target={self.target.tolist()})"

    def figure(self, index: int = 0, image: Any = None) -> Any:
        """Draw one image's explanation as a strip.

        It shows the picture with its boxes and under the global map, and for each patch the maps of
        its steps, the temporal weights as bars under them, and what each step would answer. All
        step maps share one colour scale; the global map has its own. At most four patches are
        drawn; a note says so where there are more. Patches with learned weights stand side by side,
        heaviest first, each with its map, its weight and its answer.

        Args:
            index: which image of the batch, in [0, b).
            image: a `PIL.Image` to show, for example the picture at its own resolution and aspect
                ratio; it has to show the same scene. Default: `pictures[index]`, or where that is
                None `images[index]`.

        Returns:
            A `matplotlib.figure.Figure`, which no window and no global state knows of.

        Raises:
            ValueError: if there is no such image.
            ImportError: if matplotlib is not installed.
        """
        batch = len(self.target)
        if not 0 <= index < batch:
            raise ValueError(f"Expected `index` to be in [0, {batch}), but got {index}.")
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "Expected matplotlib to draw figures with, but it is not installed: "
                "pip install recurrent-attention[train]."
            ) from error
        from recurrent_attention.inference.figure import draw_explanation

        return draw_explanation(self, index, image)

    def save(
        self, path: str | Path, index: int = 0, *, image: Any = None, dpi: float = 200
    ) -> None:
        """Write `figure(index, image)` to a file, whole or not at all.

        Args:
            path: of the file; its suffix names the format: .png, .pdf, .svg and what else
                matplotlib writes.
            index: which image of the batch, in [0, b).
            image: as in `figure`.
            dpi: pixels per inch of formats made of pixels.

        Raises:
            FileNotFoundError: if the folder does not exist.
            IsADirectoryError: if `path` is a folder.
            ValueError: if the suffix names no format, or there is no such image.
            ImportError: if matplotlib is not installed.
        """
        from recurrent_attention.inference.sheet import save_figure

        save_figure(self.figure(index, image), Path(path), dpi)
