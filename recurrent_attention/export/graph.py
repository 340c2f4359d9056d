"""A model as an ONNX graph: traced, translated, and compared with what the model answers."""

import contextlib
import os
import warnings
from typing import Any, Literal

import torch
from einops import reduce
from torch import Tensor, nn

from recurrent_attention._errors import first_line
from recurrent_attention.attention import AnytimeAttention, AnytimeState
from recurrent_attention.export.antialiasing import ResizingByMatrices
from recurrent_attention.network import TwoStreamNetwork

Kind = Literal["whole", "patches", "boxes", "global", "look", "predict"]
# Of the graph "predict": what a backbone makes of each input. "finer" are whole pictures of the
# size at which boxes are proposed, where that is another one.
MAP_OF = {"images": "global_map", "finer": "finer_map", "patches": "local_map"}
BATCH, PATCHES = 2, 3  # of the example that is traced; other than 1, which would be a constant
MOST_BYTES = 2**31 - 1  # of a protobuf message, which an ONNX file is
# Of the largest output. 1e-4 is what backbones keep; ten times that is another network.
TOLERANCE = 1e-3
BOX_TOLERANCE = 0.5  # pixels: boxes are multiples of 5 % of the picture, the same or far apart
# The axes of the second are named once, as they should be, and 0 or less samples of RoiAlign mean
# the same in torchvision and in ONNX: as many as the box has pixels.
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_CHATTER = (".*sampling_ratio", ".*[Tt]he axis name")


class OnnxGraph(nn.Module):
    """A model in the form that is exported: tensors in, a tuple of tensors out.

    Args:
        model: in eval mode.
        kind: as in `export_onnx`.
    """

    def __init__(self, model: TwoStreamNetwork, kind: Kind) -> None:
        super().__init__()
        self.model = model
        self.kind = kind
        self.eval()

    def forward(
        self,
        images: Tensor | None = None,
        patches: Tensor | None = None,
        total: Tensor | None = None,
        mass: Tensor | None = None,
        peak: Tensor | None = None,
        finer: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Answer as the model does, without the fields that are None."""
        given = {"images": images, "patches": patches, "total": total, "mass": mass, "peak": peak,
                 "finer": finer}  # fmt: skip
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        return tuple(self.answer(**inputs).values())

    def answer(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Answer by name: the fields of `TwoStreamOutput`, or what the kind of graph has."""
        if self.kind == "look":
            return self._look(**inputs)
        images = inputs["images"]
        if self.kind == "predict":
            of_whole, of_parts = self.model.global_backbone, self.model.local_backbone
            return {
                MAP_OF[name]: (of_parts if name == "patches" else of_whole)(pictures)
                for name, pictures in inputs.items()
            }
        if self.kind in ("boxes", "global"):
            feature_map = self.model.global_backbone(images)
            if self.kind == "global":
                return {"global_logits": self.model.classify_global(feature_map)}
            return {"boxes": self.model.propose_on_map(feature_map, images)}
        output = self.model(images, inputs.get("patches"))._asdict()
        return {name: tensor for name, tensor in output.items() if tensor is not None}

    def _look(
        self, patches: Tensor, total: Tensor, mass: Tensor, peak: Tensor
    ) -> dict[str, Tensor]:
        """Take one more look: patches (b c h w) and the state before it."""
        assert isinstance(self.model.attention, AnytimeAttention)
        look = reduce(self.model.local_backbone(patches), "b c h w -> b c", "mean")
        state = self.model.attention.step(AnytimeState(total, mass, peak), look)
        local_logits = self.model.local_head(self.model.drop(state.pooled))
        return {"local_logits": local_logits, "after_total": state.total,
                "after_mass": state.mass, "after_peak": state.peak}  # fmt: skip

    @property
    def image_size(self) -> int:
        """Side of the pictures that the graph takes, in pixels."""
        return self.model.proposal_size if self.kind == "boxes" else self.model.image_size

    def example(self, batch: int, patches: int) -> dict[str, Tensor]:
        """Make inputs by name, the same each time, without touching the random state.

        Args:
            batch: b, pictures.
            patches: p, where the graph takes patches.

        Returns:
            images (b 3 h w), and perhaps patches (b p 3 h w); for a look patches (b 3 h w) and the
            state before it.
        """
        generator = torch.Generator().manual_seed(0)
        parameter = next(self.model.parameters())
        channels, side = self.model.global_backbone.in_chans, self.model.patch_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.kind != "look":
            shapes["images"] = (batch, channels, self.image_size, self.image_size)
        if self.kind == "patches":
            shapes["patches"] = (batch, patches, channels, side, side)
        if self.kind in ("look", "predict"):
            shapes["patches"] = (batch, channels, side, side)
        if self.kind == "predict" and (finer := self.model.proposal_size) != self.image_size:
            shapes["finer"] = (batch, channels, finer, finer)
        if self.kind == "look":
            shapes["total"] = (batch, self.model.local_backbone.out_channels)
            shapes |= {"mass": (batch,), "peak": (batch,)}
        found = {
            name: torch.randn(shape, generator=generator).to(parameter)
            for name, shape in shapes.items()
        }
        if "mass" in found:
            found["mass"] = 1 + found["mass"].abs()
        return found


def translate(graph: OnnxGraph) -> Any:
    """Trace a graph and translate it for any number of pictures, and of given patches.

    Args:
        graph: on any device; it may keep what tracing left in it, so let it be a copy.

    Returns:
        The `onnx.ModelProto`, with names for inputs, outputs and their axes.

    Raises:
        RuntimeError: if torch cannot trace it, or ONNX has no operator for something in it.
        ValueError: if it is too large for one file.
    """
    inputs = graph.example(BATCH, PATCHES)
    with (resizing := ResizingByMatrices()):
        outputs = list(graph.answer(**inputs))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("patches_per_image")}
    dynamic: dict[str, dict[int, Any]] = {name: {0: axes[0]} for name in inputs}
    if graph.kind == "patches":
        dynamic["patches"] = axes
    if graph.kind == "predict":  # graphs of their own, once they are taken apart
        dynamic = {name: {0: torch.export.Dim(f"batch_of_{name}")} for name in inputs}
    with _quiet(), resizing:
        try:
            program = torch.onnx.export(
                graph,
                kwargs=inputs,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=dynamic,
            )
        except Exception as error:  # torch.onnx wraps whatever happened, at great length
            cause = error.__cause__ or error
            raise RuntimeError(
                "Expected a model that torch.onnx can export, but got "
                f"{type(cause).__name__}: {first_line(cause)}. Try another backbone, or a newer "
                "torch."
            ) from error
        if program is None:  # the type allows it; it is so only with dynamo=False
            raise TypeError("Expected torch.onnx.export to return a program, but got None.")
        initializers: Any = program.model.graph.initializers.values()
        size = sum(value.const_value.nbytes for value in initializers)
        if size > MOST_BYTES:
            raise ValueError(
                f"Expected the weights to take less than 2 GB, the most that one ONNX file holds, "
                f"but got {size / 1e9:.1f} GB. Take a smaller backbone."
            )
        proto = program.model_proto
    _strip(proto.graph)
    return proto


def check_answers(graph: OnnxGraph, path: os.PathLike[str]) -> None:
    """Let onnxruntime answer, for another number of pictures than were traced, and compare.

    Args:
        graph: what the file was made of, not traced itself.
        path: of the file.

    Raises:
        RuntimeError: if an output differs by more than `TOLERANCE`, or is not finite.
    """
    session = session_of(os.fspath(path))
    inputs = graph.example(BATCH + 1, PATCHES - 1)
    wanted = {name: tensor.cpu() for name, tensor in graph.answer(**inputs).items()}
    arrays = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
    got = dict(zip(wanted, map(torch.from_numpy, session.run(list(wanted), arrays)), strict=True))
    same = torch.ones(BATCH + 1, dtype=torch.bool)
    if "boxes" in wanted:  # of two windows that score alike one is taken here and one there
        same = ((got["boxes"] - wanted["boxes"]).abs() < BOX_TOLERANCE).flatten(1).all(1)
    for name, tensor in wanted.items():
        pictures = torch.ones_like(same) if name == "global_logits" else same
        difference = (got[name] - tensor)[pictures].abs()
        share = float(difference.max() / tensor.abs().max()) if len(difference) else float("nan")
        if not share <= TOLERANCE:  # a NaN compares false
            why = "onnxruntime computes something in this backbone otherwise. Take another backbone"
            if not bool(tensor.isfinite().all()):
                why = "the model's own are not finite"
            raise RuntimeError(
                f"Expected the ONNX graph to answer as the model does, but its `{name}` differ by "
                f"{share:.1e} of the largest: {why}."
            )


def session_of(model: str | bytes) -> Any:
    """Open a model in onnxruntime, on the CPU and with as many threads as torch.

    Args:
        model: path of a file, or its bytes.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; warnings are about its own optimisations
    # Its threads wait for work in a loop, which is fast within a pass. After it, torch's need the
    # cores: to cut pictures, to propose boxes and for the heads.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,  # it prints
    )


def import_onnxruntime() -> Any:
    """Import onnxruntime without the files that it writes about its use into the user's folders.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed.
    """
    before = os.environ.get(_NO_TELEMETRY)
    os.environ.setdefault(_NO_TELEMETRY, "1")  # which is read when it is imported
    try:
        import onnxruntime
    finally:
        if before is None:
            os.environ.pop(_NO_TELEMETRY, None)
    return onnxruntime


@contextlib.contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings():
        for message in _CHATTER:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _strip(graph: Any) -> None:
    """Take out what the exporter notes at each node: paths and lines of code on this machine."""
    for part in (
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
