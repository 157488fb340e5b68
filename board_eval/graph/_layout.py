"""A layer's weights in torch's order of axes and in a Graph's."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph._graph import Conv, Depthwise, Linear

#: Real weights or their integers.
Number = TypeVar("Number", bound=np.generic)


def to_torch_layout(node: Conv | Depthwise | Linear, weight: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """(out, kh, kw, in) -> (out, in, kh, kw); depthwise (kh, kw, C) -> (C, 1, kh, kw)."""
    match node:
        case Conv():
            return np.ascontiguousarray(weight.transpose(0, 3, 1, 2))
        case Depthwise():
            return np.ascontiguousarray(weight.transpose(2, 0, 1)[:, None])
        case Linear():
            return np.ascontiguousarray(weight)


def from_torch_layout(node: Conv | Depthwise | Linear, weight: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The inverse of `to_torch_layout`."""
    match node:
        case Conv():
            return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
        case Depthwise():
            return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
        case Linear():
            return np.ascontiguousarray(weight)
