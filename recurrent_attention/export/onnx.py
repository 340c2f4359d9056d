"""A model as an ONNX file that says by itself how pictures have to be prepared for it."""

import copy
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from recurrent_attention._files import check_new_file, whole_file
from recurrent_attention._modes import drop_kept, view_of
from recurrent_attention._version import __version__
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.export.graph import (
    Kind,
    OnnxGraph,
    check_answers,
    import_onnxruntime,
    translate,
)
from recurrent_attention.export.pieces import add_heads
from recurrent_attention.hub.config_checks import checked_config

KINDS = ("whole", "patches", "boxes", "global", "look", "predict")
OLDEST_TORCH = (2, 8)  # 2.7.1 takes the batch that it traces for constant, 2.6 has no batch norm
_MODULES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(
    model: TwoStreamClassifier, path: str | os.PathLike[str], *, graph: Kind = "whole"
) -> None:
    """Write a model in eval mode to an ONNX file, and compare the answers of both.

    The inputs are `images` (b 3 h w), normalised, of `model.image_size` pixels, and with
    `graph="patches"` also `patches` (b p 3 h w) of `model.patch_size`; b and p are free. The
    outputs have the names and shapes of `TwoStreamOutput`; what is None there is absent.

    The file's `metadata_props` hold what you need to prepare a picture and to name the answer,
    each value as JSON: `class_names` (null where the model has none), `image_size` (of this graph),
    `patch_size`, `num_patches` (null where the graph takes any), `num_features` (c of a state),
    `fusion_weight`, `temperatures` (of the answers after 0, 1, ... looks, or null), `mean` and
    `std` (by channel, for values in `pixel_range`), `interpolation`, `color_order` ("L", "RGB" or
    "RGBA"; null for other channels), `resize` ("stretch": the aspect ratio is lost), `graph`,
    `global_backbone`, `local_backbone` and `recurrent_attention` (the version).

    Args:
        model: in float32, on any device. Modes, gradients, hooks and random state stay as they are.
        path: of the file, which is replaced if it exists, and written whole or not at all.
        graph: "whole": images in, and the model proposes `model.num_patches` patches by itself, as
            `model(images)` does. "patches": patches in as well, as `model(images, patches)`.
            "boxes": images of `model.proposal_size` pixels in, boxes alone out, as `model.propose`;
            with "patches" this makes up `model.predict`, which cuts the patches out of the picture
            as it was before it was resized. "global" and "look" are for looks in sequence, with
            `patch_weighting="anytime"`: "global" takes images and returns `global_logits`; "look"
            takes `patches` (b 3 h w), one of each picture, and the state before (`total` (b c),
            `mass` (b), `peak` (b); before the first look 0, 0 and minus infinity), and returns
            `local_logits` after it and the state (`after_total`, `after_mass`, `after_peak`).
            "predict" is for `OnnxClassifier` and the command `predict`: both backbones alone, from
            `images`, `patches` (n 3 h w) and, where boxes are proposed at another size, `finer` to
            `global_map`, `local_map` and `finer_map`, with the weights of the heads as further
            initializers and the model's `config` in the metadata.

    Raises:
        ImportError: if onnx, onnxscript or onnxruntime are not installed, or torch is older than
            2.8.
        FileNotFoundError: if the folder does not exist.
        TypeError: if `model` is no `TwoStreamClassifier`, or not in float32.
        ValueError: if `graph` is another word, or the weights take more than 2 GB.
        RuntimeError: if something in the model cannot be exported, or if onnxruntime answers
            otherwise than the model: on noise, by more than 1e-3 of the largest value.

    Example:
        >>> model = TwoStreamClassifier("test_resnet", num_classes=7, image_size=64, patch_size=32)
        >>> export_onnx(model, "model.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    _check(model, path, graph)
    import onnx

    with torch.inference_mode(False), torch.no_grad():
        if graph != "patches":
            _ = model.cell_offset  # nothing can be measured while the graph is traced
        model = view_of(model)  # which can drop what timm models keep of a pass
        drop_kept(model)
        proto = translate(OnnxGraph(_unfused(_twin(model)), graph))
        answering = OnnxGraph(_twin(model), graph)
        entries = {key: json.dumps(value) for key, value in _metadata(answering).items()}
        if graph == "predict":
            entries["config"] = json.dumps(model.config)
            entries["cell_offset"] = json.dumps(model.cell_offset)
            add_heads(proto, model)
        onnx.helper.set_model_props(proto, entries)
        onnx.checker.check_model(proto)
        with whole_file(path) as beside:
            beside.write_bytes(proto.SerializeToString())
            check_answers(answering, beside)


def _twin(model: TwoStreamClassifier) -> TwoStreamClassifier:
    """Copy all but the weights, which are shared: timm models keep what they see in a pass."""
    weights = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in weights})


def _unfused(model: TwoStreamClassifier) -> TwoStreamClassifier:
    """Make attention of two products, by timm's switch: torch.onnx fuses it over 4 axes only."""
    for attributes in map(vars, model.modules()):
        if attributes.get("fused_attn"):
            attributes["fused_attn"] = False
    return model


def _metadata(graph: OnnxGraph) -> dict[str, object]:
    model = graph.model
    look = model.data_config
    return {
        "class_names": model.class_names,
        "image_size": graph.image_size,
        "patch_size": model.patch_size,
        "num_patches": None if graph.kind == "patches" else model.num_patches,
        "num_features": model.local_backbone.out_channels,
        "fusion_weight": model.fusion_weight,
        "temperatures": model.temperatures,
        "mean": look["mean"],
        "std": look["std"],
        "pixel_range": [0, 1],
        "color_order": {1: "L", 3: "RGB", 4: "RGBA"}.get(model.global_backbone.in_chans),
        "interpolation": look["interpolation"],
        "resize": "stretch",
        "graph": graph.kind,
        "global_backbone": model.global_backbone.name,
        "local_backbone": model.local_backbone.name,
        "recurrent_attention": __version__,
    }


def _check(model: Any, path: Path, graph: str) -> None:
    if not isinstance(model, TwoStreamClassifier):
        hint = " Pass the model that was compiled." if hasattr(model, "_orig_mod") else ""
        raise TypeError(
            f"Expected `model` to be a TwoStreamClassifier, but got {type(model).__name__}.{hint}"
        )
    if graph not in KINDS:
        raise ValueError(f"Expected `graph` to be one of {', '.join(KINDS)}, but got {graph!r}.")
    if graph == "look" and model.patch_weighting != "anytime":
        raise ValueError(
            "Expected a model with patch_weighting='anytime', which answers after each look, for "
            f"graph='look', but got {model.patch_weighting!r}."
        )
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            raise TypeError(
                f"Expected `model` to be in torch.float32, but got {parameter.dtype}. Export a "
                "copy: copy.deepcopy(model).float()."
            )
    if graph == "predict":
        checked_config(json.loads(json.dumps(model.config)), path)  # as `OnnxClassifier` will
    check_new_file(path)
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise ImportError(
            f"Expected torch {'.'.join(map(str, OLDEST_TORCH))} or newer to export with, but got "
            f"{torch.__version__}."
        )
    for name in _MODULES:
        try:
            import_onnxruntime() if name == "onnxruntime" else importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"Expected {name} to export with, but it is not installed. Run: pip install "
                "'recurrent-attention[onnx]'"
            ) from error
