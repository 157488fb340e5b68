"""Which grid every value is rounded on: fix positions, and scales of whole tensors, chosen for the network's output.

For every tensor a table tells what rounding it costs at the logits of every image, by step. The costs of all tensors add up to
an image's noise. What is made small is the mean over images of its logarithm: an image that is far off anyway does not decide
for the others, and no tensor ruins a few images because it is harmless on most. Steps are powers of two, but a tensor scaled by
a fraction of an octave is rounded on a grid between them, so scales are chosen along with the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network
from edgesearch.objectives.quantization._channels import Channels, layer_channels
from edgesearch.objectives.quantization._positions import (
    MAX_FIX,
    base_position,
    owners,
    owns_position,
    round_half_away,
    round_half_up,
)
from edgesearch.objectives.quantization._sensitivity import Sensitivity

#: Scales of a tensor that are tried within an octave.
_FRACTIONS = 8
#: Positions tried, from the coarsest that holds the whole range upwards.
_OCTAVES = 7
_SWEEPS = 4
_TINY = 1e-20
#: A component that is never scaled.
_FIXED = -1
#: Images computed at a time, and values of each that are looked at.
_BATCH = 8
_ELEMENTS = 1 << 15


@dataclass
class Table:
    """What rounding one tensor costs: error[fraction] is (positions, images) for positions `base[fraction]`, + 1, ...

    A tensor that is divided by 2**(fraction / 8) where it is made is rounded on the grid of that fraction. Tensors whose scale
    is fixed have the fraction 0 alone.
    """

    base: list[int]
    error: list[Tensor]


def value_table(value: Tensor, cost: Tensor, bits: int, fractions: int = _FRACTIONS) -> Table:
    """The table of a value (N, C, P); `cost` (N, C) is what an error of size 1 at every position costs."""
    each = cost.float().unsqueeze(2).to(value.device) / value.shape[2]

    def error(scaled: Tensor, fix: int) -> Tensor:
        return ((round_half_up(scaled, fix, bits) - scaled).square_() * each).flatten(1).sum(1).double().cpu()

    return _table(value, error, bits, fractions)


def parameter_table(parameter: Tensor, cost: Tensor, noise: Tensor, bits: int, fractions: int = _FRACTIONS) -> Table:
    """The table of weights or biases; `cost` in their shape, `noise` (N,) is what an image suffers where the mean suffers 1."""
    cost = cost.to(parameter.device)

    def error(scaled: Tensor, fix: int) -> Tensor:
        return ((round_half_away(scaled, fix, bits) - scaled).double().square_() * cost).sum().cpu() * noise

    return _table(parameter, error, bits, fractions)


def _table(value: Tensor, error: Callable[[Tensor, int], Tensor], bits: int, fractions: int) -> Table:
    table = Table([], [])
    for fraction in range(fractions):
        factor = 2.0 ** (-fraction / _FRACTIONS)
        scaled = value * factor
        base = min(base_position(scaled, bits), MAX_FIX)
        positions = range(base, min(base + _OCTAVES - 1, MAX_FIX) + 1)
        table.base.append(base)
        table.error.append(torch.stack([error(scaled, fix) for fix in positions]) / factor**2)
    return table


def choose_grids(
    network: Network, channels: Channels, movable: list[int], sensitivity: Sensitivity, images: Tensor, bits: int
) -> tuple[Tensor, dict[str, int]]:
    """log2 of a scale for every channel id, equal within each of the `movable` components, and the positions of all values.

    Weights and biases are given positions too while scales are looked for, but their final ones are found when they are
    rounded, layer by layer.

    `images` (N, C, H, W) are those of `sensitivity`; the output's position is left to the caller.
    """
    graph, owned_by = network.graph, owners(network.graph)
    component = channels.components
    output = owned_by[graph.output.name]

    def fractions_of(*components: int) -> int:
        """How many scales a tensor between these components can get."""
        return _FRACTIONS if any(c in movable for c in components) else 1

    terms: list[_Term] = []
    for name, value in _samples(network, images, [n.name for n in graph if owns_position(n, owned_by)]).items():
        if name != output:
            place = int(component[channels.of[name][0]])
            terms.append(_Term(name, None, place, value_table(value, sensitivity.cost[name], bits, fractions_of(place))))
    noise = sensitivity.noise
    for node in network.layers():
        reads, makes = (int(component[ids[0]]) for ids in layer_channels(channels, node))
        count = fractions_of(reads, makes)
        table = parameter_table(network.weights[node.name], sensitivity.weight_cost[node.name], noise, bits, count)
        terms.append(_Term(node.name, reads, makes, table))
        if node.name in network.biases:
            count = fractions_of(makes)
            table = parameter_table(network.biases[node.name], sensitivity.bias_cost[node.name], noise, bits, count)
            terms.append(_Term(node.name, _FIXED, makes, table))
    fractions = _descend(terms, movable)
    found = {t.name: t.table.base[fractions.get(t.makes, 0)] + t.choice for t in terms if t.reads is None}
    moves = torch.tensor([fractions.get(int(c), 0) / _FRACTIONS for c in component], dtype=torch.float64)
    return moves, found


@dataclass
class _Term:
    """One tensor: a value where `reads` is None; a bias reads _FIXED.

    `choice` is its position now, counted from the table's base.
    """

    name: str
    reads: int | None
    makes: int
    table: Table
    choice: int = 0

    def errors(self, fractions: dict[int, int]) -> Tensor:
        """(positions, images) at the fractions that components have now."""
        fraction = fractions.get(self.makes, 0) - (0 if self.reads is None else fractions.get(self.reads, 0))
        return self.table.error[fraction % _FRACTIONS]


def _descend(terms: list[_Term], movable: list[int]) -> dict[int, int]:
    """Component -> the fraction it is scaled by; every term is left at its best position. Coordinate descent."""
    fractions = dict.fromkeys(movable, 0)
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for term in terms:  # to start with, every tensor by itself
        errors = term.errors(fractions)
        term.choice = int((errors + _TINY).log().mean(1).argmin())
        total = total + errors[term.choice]
    groups: list[tuple[int | None, list[_Term]]] = [(None, [term]) for term in terms]
    groups += [(c, [t for t in terms if c in (t.reads, t.makes)]) for c in movable]
    for _ in range(_SWEEPS):
        for place, own in groups:
            taken = sum((term.errors(fractions)[term.choice] for term in own), torch.zeros((), dtype=torch.float64))
            rest = (total - taken).clamp_min(0)  # not a hair below, for the logarithm's sake
            tried = []
            for fraction in range(_FRACTIONS) if place is not None else (0,):
                moved = fractions if place is None else {**fractions, place: fraction}
                sum_, choices = _choose(own, moved, rest)
                tried.append((float((sum_ + _TINY).log().mean()), moved, choices, sum_))
            _, fractions, choices, total = min(tried, key=lambda t: t[0])
            for term, choice in zip(own, choices, strict=True):
                term.choice = choice
    return fractions


def _choose(terms: list[_Term], fractions: dict[int, int], rest: Tensor) -> tuple[Tensor, list[int]]:
    """The best position of each of `terms`, one after the other, and the noise of every image with them."""
    choices = []
    for term in terms:
        errors = term.errors(fractions)
        choices.append(int((rest + errors + _TINY).log().mean(1).argmin()))
        rest = rest + errors[choices[-1]]
    return rest, choices


def _samples(network: Network, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Name -> values (N, C, P) at some of the positions of its node."""
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(0)
    chosen: dict[str, Tensor] = {}
    for part in torch.split(images, _BATCH):
        for name, value in network.run(part, keep=names).items():
            if name not in parts:
                continue
            flat = value.flatten(2) if value.ndim > 2 else value.unsqueeze(2)
            if name not in chosen:
                most = max(1, _ELEMENTS // flat.shape[1])
                chosen[name] = torch.randperm(flat.shape[2], generator=generator)[:most]
            parts[name].append(flat[:, :, chosen[name]])
    return {name: torch.cat(found) for name, found in parts.items()}
