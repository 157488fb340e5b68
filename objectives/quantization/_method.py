"""The ways to quantize after training: by name, others by import path."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph

#: "best", "vitis", "per_channel" or an import path such as `my_pkg.module:my_quantizer`.
Method: TypeAlias = str


class Quantizer(Protocol):
    """Makes integers of a float Graph; a plain function will do. `edgesearch.testing.QuantizerContract` tests it."""

    def __call__(self, graph: Graph, images: npt.NDArray[np.float32], *, bits: int, seed: int, device: str) -> Graph:
        """The quantized form of `graph`, calibrated on `images`.

        `graph` has finite weights and `images` are float32 (N, *input shape), finite and not constant: `quantize` has checked.
        Every rounded value, weight and bias gets a fix position for integers of `bits` bits. The same arguments give the same
        Graph. (Calibration computes in real numbers, whose last bits differ between kinds of device, so a near tie may fall
        otherwise on another `device`; the integers of a given Graph never do.) Raises QuantizationError for what cannot be
        quantized.
        """
        ...
