"""The network of a Graph in float32, as torch computes it: the reference that quantized networks are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgesearch.board_eval.execution._exact import unambiguous
from edgesearch.board_eval.execution._images import batch_size, check_images, to_numpy
from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    concat_dimension,
    pool_sums_or_maxima,
    reshape_value,
    to_torch_layout,
)
from edgesearch.errors import QuantizationError


@overload
def run_float(
    graph: Graph, images: npt.NDArray[np.generic], *, keep: None = None, batch: int | None = None, device: str = "cpu"
) -> Array: ...
@overload
def run_float(
    graph: Graph, images: npt.NDArray[np.generic], *, keep: Collection[str], batch: int | None = None, device: str = "cpu"
) -> dict[str, Array]: ...
def run_float(
    graph: Graph,
    images: npt.NDArray[np.generic],
    *,
    keep: Collection[str] | None = None,
    batch: int | None = None,
    device: str = "cpu",
) -> Array | dict[str, Array]:
    """Logits (N, classes) of the network with its weights as they are and nothing rounded; averages are plain means.

    `images` is (N, H, W, C) float32, already normalised. With `keep`, the values of the named nodes instead: name -> (N, ...),
    images as (N, H, W, C). Raises QuantizationError when the images do not fit or weights are missing.
    """
    check_images(graph, images, float_only=True)
    wanted = [graph.output.name] if keep is None else list(keep)
    unknown = sorted(set(wanted) - set(graph.by_name))
    if unknown:
        raise QuantizationError(f"network {graph.name!r} has no nodes {unknown}")
    weights = _weights(graph, torch.device(device))
    last = {source: i for i, node in enumerate(graph) for source in node.inputs}
    parts: dict[str, list[Array]] = {name: [] for name in wanted}
    size = batch or batch_size(graph)
    with torch.inference_mode():
        for start in range(0, len(images), size):
            values: dict[str, torch.Tensor] = {}
            for i, node in enumerate(graph):
                sources = [values[source] for source in node.inputs]
                values[node.name] = _compute(graph, node, sources, weights, images[start : start + size], device)
                if node.name in parts:
                    parts[node.name].append(to_numpy(values[node.name]))
                for source in set(node.inputs):
                    if last[source] == i:
                        del values[source]
    out = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    return out if keep is not None else out[graph.output.name]


def _weights(graph: Graph, device: torch.device) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    out = {}
    for node in graph:
        if isinstance(node, Conv | Depthwise | Linear):
            if node.weight is None or (node.has_bias and node.bias is None):
                raise QuantizationError(f"layer {node.name!r} has no weights, only shapes; load weights into the network first")
            weight = torch.from_numpy(np.array(to_torch_layout(node, np.asarray(node.weight, np.float32))))
            bias = None if node.bias is None else torch.from_numpy(np.ascontiguousarray(node.bias, np.float32)).to(device)
            out[node.name] = (weight.to(device), bias)
    return out


def _compute(
    graph: Graph,
    node: Node,
    sources: list[torch.Tensor],
    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]],
    images: npt.NDArray[np.generic],
    device: str,
) -> torch.Tensor:
    match node:
        case Input():
            x = torch.from_numpy(np.ascontiguousarray(images)).to(device)
            return x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        case Conv() | Depthwise():
            weight, bias = weights[node.name]
            left, right, top, bottom = node.padding
            x, padding = sources[0], (top, left)
            if (left, top) != (right, bottom):
                x, padding = F.pad(x, node.padding), (0, 0)
            groups = len(weight) if isinstance(node, Depthwise) else 1
            return _activate(
                F.conv2d(unambiguous(x), weight, bias, node.stride, padding, node.dilation, groups), node.activation
            )
        case Linear():
            return _activate(F.linear(sources[0], *weights[node.name]), node.activation)
        case Pool():
            y = pool_sums_or_maxima(node, sources[0], graph.by_name[node.inputs[0]].shape)
            return y if node.kind == "max" else y.div_(node.kernel[0] * node.kernel[1])
        case Add():
            return _activate(sources[0] + sources[1], node.activation)
        case Concat():
            return torch.cat(sources, concat_dimension(node))
        case Activation():
            return _activate(sources[0].clone(), node.activation)
        case Reshape():
            return reshape_value(node, sources[0])
    raise QuantizationError(f"node {node.name!r} of type {type(node).__name__} cannot be executed")


def _activate(x: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
    """In place."""
    match kind:
        case "relu":
            return x.relu_()
        case "relu6":
            return x.clamp_(0, 6)
        case "leaky_relu":
            return F.leaky_relu_(x, LEAKY_SLOPE)
        case _:
            return x
