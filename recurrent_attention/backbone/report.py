"""The report on a timm model before anybody trains on it."""

from typing import NamedTuple


class StreamReport(NamedTuple):
    """One of the two streams in a `BackboneReport`.

    Attributes:
        size: side of its square pictures, in pixels.
        map_size: (h, w) of its feature map, in cells.
        channels: c of the map.
        reduction: how many pixels wide a cell is, rounded.
        macs: multiply-adds of one picture in the backbone's forward pass: those of convolutions and
            matrix products, the two of attention among them. Norms, activations, pooling, softmax
            and resampling are not counted.
    """

    size: int
    map_size: tuple[int, int]
    channels: int
    reduction: int
    macs: int

    def __str__(self) -> str:
        height, width = self.map_size
        return (
            f"{self.size} x {self.size} pixels, map of {self.channels} x {height} x {width}, a "
            f"cell is {self.reduction} pixels wide, {self.macs / 1e9:,.2f} GMACs"
        )


class BackboneReport(NamedTuple):
    """The result of `check_backbone`; `print` shows it as a table.

    Attributes:
        name: of the model.
        reason: why it does not work, in one sentence; None if it works. What follows is empty where
            there is a reason.
        size_note: why the sizes are not 448 and 224 where nobody asked for others; else None.
        global_stream: the stream of whole images.
        local_stream: the stream of patches.
        fixed_size: whether the model, once built, takes pictures of these sizes only.
        parameters: numbers in the weights of the whole two-stream model, heads included.
        trainable: how many of them are trained; the others do not change the map.
        batch_size: images in the training step.
        num_patches: patches of each of them.
        state_bytes: weights and buffers, gradients and the two averages of AdamW, in float32.
        kept_bytes: what autograd keeps of the batch for the backward pass, in float32. Workspaces
            and gradients on their way come on top.
        mean: of each channel, to be subtracted from pixels in [0, 1].
        std: of each channel, to divide by after that.
        interpolation: by which pictures are to be resized.

    Example:
        >>> print(BackboneReport("vgg20", "Expected `name` to be a timm model, but got 'vgg20'."))
        vgg20 does not work: Expected `name` to be a timm model, but got 'vgg20'.
    """

    name: str
    reason: str | None = None
    size_note: str | None = None
    global_stream: StreamReport | None = None
    local_stream: StreamReport | None = None
    fixed_size: bool = False
    parameters: int = 0
    trainable: int = 0
    batch_size: int = 0
    num_patches: int = 0
    state_bytes: int = 0
    kept_bytes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = ""

    @property
    def ok(self) -> bool:
        """Whether it works."""
        return self.reason is None

    @property
    def input_range(self) -> tuple[float, float]:
        """The least and the greatest value in a normalised picture."""
        ends = [(end - m) / s for m, s in zip(self.mean, self.std, strict=True) for end in (0, 1)]
        return min(ends), max(ends)

    def __str__(self) -> str:
        if not self.ok:
            return f"{self.name} does not work: {self.reason}"
        low, high = self.input_range
        frozen = self.parameters - self.trainable
        patches = "1 patch" if self.num_patches == 1 else f"{self.num_patches} patches"
        state, kept = self.state_bytes / 1e9, self.kept_bytes / 1e9
        lines = [
            f"{self.name} works",
            f"  global stream: {self.global_stream}",
            f"  local stream: {self.local_stream} a patch",
            f"  other sizes: {'not once it is built' if self.fixed_size else 'any'}",
            f"  parameters: {self.parameters / 1e6:,.2f} million"
            + (f", {frozen / 1e6:,.2f} million of them frozen" if frozen else ""),
            f"  training step, batch size {self.batch_size}, {patches} an image, float32: "
            f"{state + kept:,.2f} GB ({state:,.2f} for weights, gradients and AdamW's averages, "
            f"{kept:,.2f} kept for the backward pass)",
            f"  pictures: pixels in [0, 1], minus {_listed(self.mean)}, divided by "
            f"{_listed(self.std)}: {low:.2f} to {high:.2f}; resized {self.interpolation}",
        ]
        if self.size_note:
            lines.insert(1, f"  {self.size_note}")
        return "\n".join(lines)


def _listed(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
