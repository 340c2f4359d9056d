"""An exported model that answers through onnxruntime, which is faster on a CPU than torch is."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recurrent_attention._arguments import real_number
from recurrent_attention._errors import ArgumentError, first_line, printable
from recurrent_attention._files import check_regular_file
from recurrent_attention.backbone import FeatureBackbone
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.export.graph import MAP_OF, import_onnxruntime, session_of
from recurrent_attention.export.pieces import parts_of, take_heads
from recurrent_attention.hub.config_checks import checked_config
from recurrent_attention.hub.skeleton import build_skeleton
from recurrent_attention.network import TwoStreamNetwork


class OnnxClassifier:
    """Answer as `TwoStreamClassifier.predict` does, with both backbones run by onnxruntime.

    The heads, the pictures and the looks are those of `TwoStreamClassifier`. It cannot be trained
    or explained: onnxruntime has no gradients.

    Args:
        path: a file of `export_onnx(model, path, graph="predict")`. It may be a stranger's: no
            code in it is run, and no other file is read.

    Attributes:
        predict: as `TwoStreamClassifier.predict`.
        class_names: k names, or None.
        num_classes: k.
        image_size: side of the whole pictures, in pixels.
        patch_size: side of the patches, in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file.
        ImportError: if onnx or onnxruntime is not installed.

    Example:
        >>> from recurrent_attention.export import OnnxClassifier, export_onnx
        >>> model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=32)
        >>> export_onnx(model, "model.onnx", graph="predict")  # doctest: +SKIP
        >>> print(OnnxClassifier("model.onnx").predict("bird.jpg"))  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.network = _load(Path(path))
        self.predict = self.network.predict
        self.class_names = self.network.class_names
        self.num_classes = self.network.num_classes
        self.image_size, self.patch_size = self.network.image_size, self.network.patch_size


class OnnxBackbone(FeatureBackbone):
    """A `FeatureBackbone` whose map comes from onnxruntime, at the sizes that were exported.

    Args:
        built: the same backbone without weights: what it says about itself is kept.
        graphs: the session for pictures of each side, and the name of its input and output.
    """

    def __init__(self, built: FeatureBackbone, graphs: Mapping[int, tuple[Any, str, str]]) -> None:
        nn.Module.__init__(self)
        known = vars(built).items()
        self.__dict__ |= {name: v for name, v in known if name not in vars(nn.Module())}
        self.graphs = dict(graphs)
        self.fixed_size = built.fixed_size or len(graphs) == 1

    def check(
        self, images: Any, *, name: str = "images", given: tuple[int, ...] | None = None
    ) -> None:
        """Refuse what `forward` cannot take.

        Args:
            images: (b 3 h w) as in `forward`.
            name: of the caller's argument, for the message.
            given: its shape, where that is another.

        Raises:
            ValueError: if the shape is none of those that were exported.
            TypeError: if `images` is no floating-point tensor.
        """
        super().check(images, name=name, given=given)
        height, width = images.shape[2:]
        if height != width or height not in self.graphs:
            raise ValueError(
                f"Expected `{name}` with sides of {' or '.join(map(str, self.graphs))} pixels, for "
                f"which the model was exported, but got shape {tuple(images.shape)}."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the feature map of images, without a gradient.

        Args:
            images: (b 3 h w), of a size that was exported.

        Returns:
            The feature map (b c h w).

        Raises:
            ValueError: if the shape does not fit.
            TypeError: if `images` is not floating point.
        """
        self.check(images)
        session, given, found = self.graphs[images.shape[2]]
        (feature_map,) = session.run([found], {given: images.detach().numpy()})
        return torch.from_numpy(feature_map)


def _load(path: Path) -> TwoStreamClassifier:
    check_regular_file(path, "an ONNX file")
    onnx = _import_onnx()
    try:
        proto = onnx.load_model(path, load_external_data=False)
        entries = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    except Exception as error:  # protobuf raises its own
        raise _not_a_model(path, first_line(error)) from error
    graph = entries.get("graph", "another one")
    if graph != "predict":
        raise ValueError(
            f'Expected {printable(path)} to be an ONNX file of graph="predict", but got '
            f"{printable(graph)}. Export it again: recurrent-attention export MODEL FILE."
        )
    try:
        settings = checked_config(dict(entries["config"]), path)
        heads = take_heads(proto)
        network = build_skeleton(TwoStreamClassifier, settings, heads, path)
        offset = real_number(entries["cell_offset"], "cell_offset", -1, 1)
        network.measured_offsets.known[network.global_backbone.name] = offset
        _run_backbones(network, parts_of(proto))
        network.load_state_dict(heads, assign=True)
    except ArgumentError:
        raise
    except Exception as error:  # of onnx, onnxruntime and torch, which each have their own
        raise _not_a_model(path, first_line(error)) from error
    return network.eval().requires_grad_(False)


def _not_a_model(path: Path, reason: str) -> ValueError:
    return ArgumentError(
        f"Expected {printable(path)} to be a whole ONNX file of export_onnx, but got: {reason}."
    )


def _run_backbones(network: TwoStreamNetwork, parts: dict[str, Any]) -> None:
    """Put sessions of onnxruntime in the place of both backbones."""
    sides = {"images": network.image_size, "finer": network.proposal_size}
    of_global = {
        side: (session_of(parts[given].SerializeToString()), given, MAP_OF[given])
        for given, side in sides.items()
        if given in parts
    }
    of_local = {
        network.patch_size: (
            session_of(parts["patches"].SerializeToString()),
            "patches",
            "local_map",
        )
    }
    network.global_backbone = OnnxBackbone(network.global_backbone, of_global)
    network.local_backbone = OnnxBackbone(network.local_backbone, of_local)


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.utils

        import_onnxruntime()
    except ImportError as error:
        raise ImportError(
            "Expected onnx and onnxruntime to run an ONNX file with, but they are not installed. "
            "Run: pip install 'recurrent-attention[onnx]'"
        ) from error
    return onnx
