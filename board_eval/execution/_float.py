"""The network of a Graph in float32, as torch computes it: the reference that quantized networks are compared with."""

from __future__ import annotations

from collections.abc import Collection
from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval.execution._images import batch_size, check_device, check_graph, check_images, to_numpy, to_tensor
from edgesearch.board_eval.execution._network import Network
from edgesearch.board_eval.execution._precision import full_float32
from edgesearch.board_eval.graph import Array, Graph
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
    images as (N, H, W, C). Raises QuantizationError when the images do not fit, weights are missing, or torch has no such
    `device`.
    """
    check_graph(graph)
    check_images(graph, images, float_only=True)
    place = check_device(device)
    wanted = [graph.output.name] if keep is None else list(keep)
    unknown = sorted(set(wanted) - set(graph.by_name))
    if unknown:
        raise QuantizationError(f"network {graph.name!r} has no nodes {unknown}")
    network = Network.of(graph, reference=True).channels_last().to(place)
    parts: dict[str, list[Array]] = {name: [] for name in wanted}
    size = batch_size(graph, batch)
    with full_float32(), torch.inference_mode():
        for start in range(0, len(images), size):
            values = network.run(to_tensor(images[start : start + size]).to(place), keep=wanted)
            for name in wanted:
                parts[name].append(to_numpy(values[name]))
    out = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    return out if keep is not None else out[graph.output.name]
