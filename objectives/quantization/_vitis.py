"""What Vitis AI's quantizer (pytorch_nndct 3.5) makes of a network by default: the baseline, to be predicted exactly.

ReLU6 becomes ReLU, layers are equalized, parameters get their positions once, activations one position per image of which the
most frequent so far counts, and every bias is corrected a little after every image until its layer's noise has settled.
A batch-norm behind a linear layer is not folded into it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network, activate, apply_layer, to_tensor
from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Graph, Input, Linear, Node, reads_unrounded
from edgesearch.objectives.quantization._assembly import assemble
from edgesearch.objectives.quantization._checks import check_value
from edgesearch.objectives.quantization._positions import (
    MAX_FIX,
    Positions,
    base_position,
    obey_shift_limits,
    owners,
    owns_position,
    round_half_away,
    round_half_up,
    search_position,
)
from edgesearch.objectives.quantization._vitis_equalization import equalize_as_vitis

#: Share of the mean error that a bias is corrected by after an image.
_RATE = 0.05


def quantize_vitis(
    graph: Graph, images: npt.NDArray[np.float32], *, bits: int = 8, seed: int = 0, device: str = "cpu"
) -> Graph:
    """See `quantize`; nothing is left to chance, so `seed` changes nothing."""
    return quantize_as_it_is(graph.apart or graph, images, bits=bits, device=device)


def quantize_as_it_is(graph: Graph, images: npt.NDArray[np.float32], *, bits: int = 8, device: str = "cpu") -> Graph:
    """The same of a network with batch-norms behind linear layers folded, where `graph` has them so."""
    network = Network.of(without_relu6(graph))
    with torch.no_grad():
        equalize_as_vitis(network)
        calibration = Calibration(network.to(device), bits)
        for image in torch.split(to_tensor(images), 1):
            calibration.show(image.contiguous().to(device))
        return calibration.finish()


def _relu_behind_input(graph: Graph) -> str | None:
    """The ReLU or ReLU6 that alone reads the input; the input then has its position."""
    readers = graph.consumers[graph.input.name]
    return readers[0].name if len(readers) == 1 and isinstance(readers[0], Activation) and reads_unrounded(readers[0]) else None


def without_relu6(graph: Graph) -> Graph:
    """The network with every ReLU6 module replaced by ReLU, as Vitis AI does because it equalizes; functions stay."""

    def put(node: Node) -> Node:
        if not isinstance(node, Conv | Depthwise | Linear | Add | Activation):
            return node
        if node.activation == "relu6" and not node.keeps_clip:
            return dataclasses.replace(node, activation="relu")
        return node

    return graph.map(put)


@dataclass
class _Noise:
    """How noisy a layer's output is, smoothed over images; decides how long its bias is corrected."""

    efficiency: float = 0.0
    deviation: float = 0.0
    settled: bool = False

    def rate(self, error: Tensor, exact: Tensor) -> float:
        """The correction's rate after one more image; 0 when the layer has settled."""
        noise = float(error.square().mean())
        if noise <= 0:
            self.settled = True
            return 0.0
        efficiency = 1.25 * math.log10(max(float(exact.square().mean()) / noise, 1e-45))
        deviation = abs(efficiency - self.efficiency)
        if deviation <= 0:
            self.settled = True
            return 0.0
        self.efficiency = (self.efficiency * 4 + efficiency) * 0.2
        self.deviation = (self.deviation * 4 + deviation) * 0.2
        rate = _RATE * 0.5 if self.efficiency > 4.0 else _RATE
        self.settled = (
            self.efficiency > 4.3
            or self.deviation / self.efficiency < 0.05
            or abs(deviation - self.deviation / deviation) < 0.05
        )
        return 0.0 if self.settled else rate


@dataclass
class Calibration:
    """The quantizer between two images. `network` holds the equalized weights; its biases are corrected in place."""

    network: Network
    bits: int
    positions: Positions = field(default_factory=Positions)
    #: Node -> the position each image so far proposed for its value.
    history: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._owned_by = owners(self.network.graph)
        self._biases = {name: bias.clone() for name, bias in self.network.biases.items()}  # as they were
        self._rounded: dict[str, Tensor] = {}
        self._noise = {node.name: _Noise() for node in self.network.layers()}
        self._input_relu = _relu_behind_input(self.network.graph)
        for name, weight in self.network.weights.items():
            self.positions.weights[name] = fix = search_position(weight, self.bits, weights=True)
            self._rounded[name] = round_half_away(weight, fix, self.bits)
        for name, bias in self.network.biases.items():
            self.positions.biases[name] = fix = search_position(bias, self.bits, weights=True)
            # rounded once; what is corrected afterwards stays between the integers until the end
            self.network.biases[name] = round_half_away(bias, fix, self.bits)

    def show(self, image: Tensor) -> None:
        """Calibrate with one image (1, C, H, W)."""
        values: dict[str, Tensor] = {}
        for node in self.network.graph:
            inputs = [values[name] for name in node.inputs]
            if isinstance(node, Input):
                value = image
            elif isinstance(node, Conv | Depthwise | Linear):
                value = self._layer(node, inputs[0])
            else:
                value = self.network.compute(node, inputs)
            check_value(node, value)
            unrounded = isinstance(node, Input) and self._input_relu is not None  # nndct rounds behind the ReLU alone
            if owns_position(node, self._owned_by) and not isinstance(node, Conv | Depthwise | Linear) and not unrounded:
                value = self._round(node, value)
            values[node.name] = value

    def finish(self) -> Graph:
        """The quantized Graph."""
        if self._input_relu is not None:
            self.positions.values[self.network.graph.input.name] = self.positions.values[self._owned_by[self._input_relu]]
        obey_shift_limits(self.network.graph, self.positions)
        return assemble(self.network, self.positions, self.bits)

    def _round(self, node: Node, value: Tensor) -> Tensor:
        """Propose a position for the value, and round it at the most frequent so far (ties: the coarser)."""
        if isinstance(node, Input):
            proposal = min(base_position(value, self.bits), MAX_FIX)
        else:
            proposal = search_position(value, self.bits)
        history = self.history.setdefault(node.name, [])
        history.append(proposal)
        votes = Counter(history)
        self.positions.values[node.name] = fix = min(votes, key=lambda f: (-votes[f], f))
        return round_half_up(value, fix, self.bits)

    def _layer(self, node: Conv | Depthwise | Linear, x: Tensor) -> Tensor:
        bias = self.network.biases.get(node.name)
        before = apply_layer(node, x, self._rounded[node.name], bias)
        # what is compared is what the layer alone puts out: rounded there only when its activation is not merged into it
        owns = owns_position(node, self._owned_by)
        if node.activation == "none":
            value = before = self._round(node, before) if owns else before
        else:
            value = activate(node.activation, before)
            value = self._round(node, value) if owns else value
        check_value(node, before)
        noise = self._noise[node.name]
        if bias is not None and not noise.settled and not (isinstance(node, Depthwise) and node.scale):
            exact = apply_layer(node, x, self.network.weights[node.name], self._biases[node.name])
            error = before - exact
            rate = noise.rate(error, exact)
            if rate:
                self.network.biases[node.name] = self.network.biases[node.name] - rate * error.mean(
                    [d for d in range(error.ndim) if d != 1]
                )
        return value
