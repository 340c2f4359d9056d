"""An ONNX file for `OnnxClassifier`: graphs of both backbones, and the heads beside them.

The heads are initializers that no node takes: their weights, for torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from recurrent_attention.export.graph import MAP_OF
from recurrent_attention.network import TwoStreamNetwork

PREFIX = "heads."  # of the names of such initializers
BACKBONES = ("global_backbone.", "local_backbone.")


def add_heads(proto: Any, model: TwoStreamNetwork) -> None:
    """Add the weights of all but the backbones to an `onnx.ModelProto`."""
    from onnx import numpy_helper

    for name, tensor in model.state_dict().items():
        if not name.startswith(BACKBONES):
            array = tensor.cpu().numpy()
            proto.graph.initializer.append(numpy_helper.from_array(array, PREFIX + name))


def take_heads(proto: Any) -> Mapping[str, Tensor]:
    """Take the weights that `add_heads` added out of an `onnx.ModelProto`, by their names."""
    from onnx import numpy_helper

    every = list(proto.graph.initializer)
    kept = [tensor for tensor in every if not tensor.name.startswith(PREFIX)]
    found = {
        tensor.name.removeprefix(PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in every
        if tensor.name.startswith(PREFIX)
    }
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return found


def parts_of(proto: Any) -> dict[str, Any]:
    """Split an `onnx.ModelProto` into a graph for each of its inputs, by the input's name.

    Raises:
        ValueError: if weights are said to be in another file.
    """
    from onnx import external_data_helper, utils

    if any(map(external_data_helper.uses_external_data, _tensors_in(proto.graph))):
        raise ValueError("weights in another file")
    extractor = utils.Extractor(proto)
    return {
        given.name: extractor.extract_model([given.name], [MAP_OF[given.name]])
        for given in proto.graph.input
    }


def _tensors_in(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors_in(inner)
