"""Images on their way into and values on their way out of a network."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from edgesearch.board_eval.graph import Array, Graph, limits
from edgesearch.errors import DeviceError, QuantizationError

#: Images are run in batches whose largest tensor has about this many elements: small enough for caches.
_BATCH_ELEMENTS = 4_000_000


def batch_size(graph: Graph, wanted: object = None) -> int:
    """How many images to run at a time: as many as wanted, else what suits the network.

    Raises QuantizationError for what is no number of images.
    """
    if wanted is not None:
        if not isinstance(wanted, int | np.integer) or isinstance(wanted, bool) or wanted < 1:
            raise QuantizationError(f"the batch is {wanted!r}, expected a number of images, at least 1")
        return int(wanted)
    return max(1, _BATCH_ELEMENTS // max(int(np.prod(node.shape)) for node in graph))


def check_graph(graph: object) -> None:
    """Raise QuantizationError for what is no Graph."""
    if not isinstance(graph, Graph):
        raise QuantizationError(f"the network is of type {type(graph).__name__}, expected a Graph, as `lower` makes")


def check_device(device: object) -> torch.device:
    """The device of this name; raises DeviceError where torch does not know it or has none."""
    try:
        chosen = torch.device(device)  # type: ignore[call-overload]
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise DeviceError(f"device {device!r} cannot be used here ({said}); try 'cpu'") from error
    return cast("torch.device", chosen)


def check_images(graph: Graph, images: npt.NDArray[np.generic], *, float_only: bool = False) -> None:
    """Raise QuantizationError unless `images` is float32 or int8, (N, *input shape), finite and within the graph's bits."""
    expected = graph.input.shape
    if not isinstance(images, np.ndarray):
        raise QuantizationError(
            f"images are of type {type(images).__name__}, expected a numpy array, (N, {', '.join(map(str, expected))})"
        )
    if images.ndim != len(expected) + 1 or images.shape[1:] != expected or len(images) == 0:
        raise QuantizationError(f"images have shape {images.shape}, expected (N, {', '.join(map(str, expected))}) with N >= 1")
    if images.dtype == np.float32:
        bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
        if bad.any():
            raise QuantizationError(f"image {int(np.argmax(bad))} has NaN or infinite values; normalise real pixel values")
    elif images.dtype == np.int8 and not float_only:
        low, high = limits(graph.bits)
        if int(images.min()) < low or int(images.max()) > high:
            reach = f"{images.min()}..{images.max()}"
            raise QuantizationError(f"quantized images reach {reach}, {graph.bits} bits hold {low}..{high}")
    else:
        also = "" if float_only else " or int8 (already quantized)"
        raise QuantizationError(f"images are {images.dtype}, expected float32 (already normalised){also}")


def to_tensor(images: npt.NDArray[np.generic]) -> torch.Tensor:
    """(N, H, W, C) images as (N, C, H, W), without a copy; vectors as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def to_numpy(tensor: torch.Tensor) -> Array:
    """(N, C, H, W) as (N, H, W, C); other tensors as they are."""
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    return np.ascontiguousarray(tensor.cpu().numpy())
