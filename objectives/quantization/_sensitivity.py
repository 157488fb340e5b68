"""How much every channel of a network matters to its logits, and how large it gets, from unlabelled images.

A small error e at a value moves an image's logits by J e, J being the Jacobian there. The mean over random directions v of
(J^T v)^2 is the diagonal of J^T J: what an error of size 1 costs, squared and summed over the logits. Directions are drawn
without the one that raises all logits alike, which changes no decision. Images differ by orders of magnitude in how far an
error moves them; averages weigh every image by the inverse of what it suffers in all, so that none decides for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph import Conv, Input, part_mask
from edgesearch.objectives.quantization._checks import check_value
from edgesearch.objectives.training import safe_kernels

#: Quantile over images of a channel's largest value that counts as its range; a few extreme images do not.
_RANGE_QUANTILE = 0.9


@dataclass
class Sensitivity:
    """By node name, float64, on the CPU.

    peak, cost: (N, C) per image and channel, the largest absolute value, and what independent errors of size 1 at every
    position cost. weight_cost, bias_cost: what an error of size 1 in one weight (in torch's shape) or bias (C,) costs, over all
    positions it is used at. noise: (N,), an image's share in the averages is its inverse.
    """

    peak: dict[str, Tensor] = field(default_factory=dict)
    cost: dict[str, Tensor] = field(default_factory=dict)
    weight_cost: dict[str, Tensor] = field(default_factory=dict)
    bias_cost: dict[str, Tensor] = field(default_factory=dict)
    noise: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def reach(self, name: str) -> Tensor:
        """A channel's range (C,): its largest absolute value in nine of ten images."""
        return torch.quantile(self.peak[name], _RANGE_QUANTILE, dim=0)

    def mean_cost(self, name: str) -> Tensor:
        """The cost of a node's errors per channel (C,), averaged over images."""
        return (self.cost[name] / self.noise[:, None]).mean(0)


def measure(network: Network, images: Tensor, seed: int) -> Sensitivity:
    """The sensitivity of every value, weight and bias on `images` (N, C, H, W), one image at a time.

    Raises QuantizationError naming the layer whose value on an image is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    found = Sensitivity()
    peaks: dict[str, list[Tensor]] = {node.name: [] for node in network.graph}
    costs: dict[str, list[Tensor]] = {node.name: [] for node in network.graph}
    noises: list[float] = []
    for image in torch.split(images, 1):
        values, gradients = _backward(network, image, generator)
        noise = 0.0
        for name, value in values.items():
            peak = value.detach().abs().reshape(value.shape[1], -1).amax(1).double().cpu()
            cost = gradients.values[name].double().square().reshape(value.shape[1], -1).sum(1).cpu()
            noise += float(peak.max() ** 2 * cost.sum())
            peaks[name].append(peak)
            costs[name].append(cost)
        noises.append(max(noise, 1e-30))
        for total, own in ((found.weight_cost, gradients.weights), (found.bias_cost, gradients.biases)):
            for name, gradient in own.items():
                share = gradient.double().square().cpu() / (noises[-1] * len(images))
                total[name] = total[name] + share if name in total else share
    found.peak = {name: torch.stack(parts) for name, parts in peaks.items()}
    found.cost = {name: torch.stack(parts) for name, parts in costs.items()}
    found.noise = torch.tensor(noises, dtype=torch.float64)
    for node in network.graph:
        if isinstance(node, Conv):
            weight_cost = found.weight_cost[node.name]
            kept = part_mask(weight_cost.shape[0], weight_cost.shape[1], node.groups, node.picks)
            if kept is not None:  # nothing rounds the zeros
                weight_cost *= torch.from_numpy(kept)[:, :, None, None]
    return found


@dataclass
class _Gradients:
    values: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]


def _backward(network: Network, image: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], _Gradients]:
    """Every node's value on one image, and the gradients of the logits in a random direction."""
    weights = {name: weight.detach().requires_grad_(True) for name, weight in network.weights.items()}
    biases = {name: bias.detach().requires_grad_(True) for name, bias in network.biases.items()}
    traced = Network(network.graph, weights, biases)
    values: dict[str, Tensor] = {}
    with torch.enable_grad(), safe_kernels(image.device):
        for node in network.graph:
            if isinstance(node, Input):
                values[node.name] = image.detach().clone().requires_grad_(True)
            else:
                values[node.name] = traced.compute(node, [values[name] for name in node.inputs])
                check_value(node, values[node.name])
        logits = values[network.graph.output.name].flatten(1)
        direction = torch.randn(logits.shape, generator=generator).to(logits.device)
        if direction.shape[1] > 1:
            direction -= direction.mean(1, keepdim=True)
        wanted = [*values.values(), *weights.values(), *biases.values()]
        found = torch.autograd.grad((logits * direction).sum(), wanted, allow_unused=True)
    full = [torch.zeros_like(tensor) if gradient is None else gradient for tensor, gradient in zip(wanted, found, strict=True)]
    rest = iter(full)
    gradients = _Gradients(*({name: next(rest) for name in names} for names in (values, weights, biases)))
    return values, gradients
