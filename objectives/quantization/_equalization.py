"""Scales of channels, so that rounding moves the logits least: equalization across adds, concats and pools.

With one power-of-two step a tensor, channels of small range get few of the integers. Dividing a channel where it is made and
multiplying it where it is read changes nothing in real numbers, but which channels share which grid (cf. arXiv 1906.04721,
which looks at pairs of weights only); a ReLU6 then clips elsewhere, beyond all that the images make it see. Chosen here are
all scales of a network at once: the sum of what the roundings of all values and weights cost at the logits is made small,
first with steps as real numbers, by gradient, then with powers of two, tensor by tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph import Conv, Depthwise, Linear
from edgesearch.objectives.quantization._channels import Channels, layer_channels
from edgesearch.objectives.quantization._positions import owners, owns_position
from edgesearch.objectives.quantization._sensitivity import Sensitivity

#: The exponent with which a norm stands for a maximum while there are gradients.
_NORM = 16.0
_OPTIONS = {"maxiter": 60, "ftol": 1e-5}
#: The most that a channel is scaled by, either way: 2**6.
_LIMIT = 6.0
#: A ReLU6 channel may be enlarged until its largest value on the images is this share of 6.
_HEADROOM = 0.85
_TINY = 1e-12


def equalizing_scales(
    network: Network, channels: Channels, sensitivity: Sensitivity, peaks: Mapping[str, Tensor] | None = None
) -> Tensor:
    """log2 of the scale of every channel id, float64.

    `peaks`: for every node with a ReLU6, the largest value of each channel (C,). Without them, channels behind a ReLU6 stay.
    """
    return _Problem(network, channels, sensitivity, peaks).solve()


def scaled(network: Network, channels: Channels, scales: Tensor) -> Network:
    """The same network with every channel divided by its scale where it is made and multiplied with it where it is read."""
    result = network.copy()
    for node in network.layers():
        reads, makes = layer_factors(channels, node, scales)
        weight = result.weights[node.name]
        rest = [1] * (weight.ndim - 2)
        result.weights[node.name] = (
            weight * reads.to(weight.device).reshape(*read_shape(node), *rest) / makes.to(weight.device).reshape(-1, 1, *rest)
        )
        if node.name in result.biases:
            result.biases[node.name] = result.biases[node.name] / makes.to(weight.device)
    return result


def layer_factors(channels: Channels, node: Conv | Depthwise | Linear, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The scales of the channels a layer reads and of those it makes, float32."""
    reads, makes = (scales[torch.from_numpy(ids)].float() for ids in layer_channels(channels, node))
    return reads, makes


def read_shape(node: Conv | Depthwise | Linear) -> tuple[int, int]:
    """Where the channels read lie among the first two axes of weights in torch's layout."""
    return (-1, 1) if isinstance(node, Depthwise) else (1, -1)


@dataclass
class _Value:
    """One rounded tensor of a channel each (a value or a bias): ids, log2 of the ranges, and what an error costs."""

    ids: Tensor
    reach: Tensor
    cost: Tensor


@dataclass
class _Weights:
    """One layer's weights by (channel made, channel read), (channel,) if depthwise: log2 of the largest, and the cost."""

    reads: Tensor
    makes: Tensor
    largest: Tensor
    cost: Tensor

    def log_scale(self, scales: Tensor) -> Tensor:
        """log2 of what the weights are multiplied with."""
        reads, makes = scales[self.reads], scales[self.makes]
        return reads - makes if self.largest.ndim == 1 else reads[None, :] - makes[:, None]


class _Problem:
    """The cost of rounding as a function of log2 of the scales."""

    def __init__(
        self, network: Network, channels: Channels, sensitivity: Sensitivity, peaks: Mapping[str, Tensor] | None
    ) -> None:
        graph, owned_by = network.graph, owners(network.graph)
        index = {name: torch.from_numpy(ids) for name, ids in channels.of.items()}
        self.values = [
            _Value(index[node.name], _log2(sensitivity.reach(node.name)), sensitivity.mean_cost(node.name))
            for node in graph
            if owns_position(node, owned_by)
        ]
        self.values += [
            _Value(index[name], _log2(bias.abs()), sensitivity.bias_cost[name]) for name, bias in network.biases.items()
        ]
        self.weights = [_weights(network, index, sensitivity, node) for node in network.layers()]
        capped = torch.from_numpy(channels.capped)
        fixed = torch.from_numpy(channels.pinned) | (capped if peaks is None else torch.zeros_like(capped))
        self._low = torch.where(fixed, 0.0, -_LIMIT).double()
        # channels behind a ReLU6 may only be enlarged, and only while the largest value seen stays below 6
        self._high = torch.where(fixed | capped, 0.0, _LIMIT).double()
        for name, peak in (peaks or {}).items():
            lowest = _log2(peak / (6 * _HEADROOM)).clamp(-_LIMIT, 0.0)
            self._low = self._low.scatter_reduce(0, index[name], lowest, "amax")  # an id may lie in a tensor more than once

    def solve(self) -> Tensor:
        """log2 of the scale of every id."""
        from scipy.optimize import minimize  # half a second, for nothing in processes that quantize nothing

        start = torch.zeros(len(self._low), dtype=torch.float64)
        if bool((self._low == self._high).all()) or float(self.cost(start)) == 0:  # nothing may move, or reaches the logits
            return start
        bounds = list(zip(self._low.tolist(), self._high.tolist(), strict=True))
        found = minimize(self._with_gradient, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=_OPTIONS)
        return torch.from_numpy(found.x)

    def _with_gradient(self, point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Log of the cost, and its gradient."""
        scales = torch.tensor(point, requires_grad=True)
        with torch.enable_grad():
            value = self.cost(scales).log()
        (gradient,) = torch.autograd.grad(value, scales)
        return float(value.detach()), gradient.numpy()

    def cost(self, scales: Tensor) -> Tensor:
        """What rounding costs at the logits, up to a factor, with steps as real numbers."""
        total = torch.zeros((), dtype=torch.float64)
        for value in self.values:
            own = scales[value.ids]
            total = total + torch.exp2(2 * _soft_max(value.reach - own)) * (torch.exp2(2 * own) * value.cost).sum()
        for layer in self.weights:
            scale = layer.log_scale(scales)
            total = total + torch.exp2(2 * _soft_max(layer.largest + scale)) * (torch.exp2(-2 * scale) * layer.cost).sum()
        return total


def _weights(network: Network, index: dict[str, Tensor], sensitivity: Sensitivity, node: Conv | Depthwise | Linear) -> _Weights:
    weight, cost = network.weights[node.name].double().abs(), sensitivity.weight_cost[node.name]
    if weight.ndim > 2:
        weight, cost = weight.flatten(2).amax(2), cost.flatten(2).sum(2)
    if isinstance(node, Depthwise):
        weight, cost = weight[:, 0], cost[:, 0]
    return _Weights(index[node.inputs[0]], index[node.name], _log2(weight), cost)


def _log2(values: Tensor) -> Tensor:
    return values.cpu().double().clamp_min(_TINY).log2()


def _soft_max(values: Tensor) -> Tensor:
    """A smooth stand-in for the largest of log2 values."""
    return torch.logsumexp(values.flatten() * (_NORM * math.log(2)), 0) / (_NORM * math.log(2))
