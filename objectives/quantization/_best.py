"""The quantizer to use: channels scaled and positions chosen for the network's output, biases corrected, rounding learnt.

What it makes, with learnt rounding and without, is compared with what Vitis AI's method makes of all images, and the closer one
is taken: on images that it has not seen itself, and on means of two of them. A classifier is sure of most single images that it
was trained with, quantized well or badly, so that a few of them tell chance; of a mean of two it is not. (By 51 single images
alone "vitis" was taken for a ResNet-20: 91.50 % of 10,000 test images, and now 91.70 %, `benchmarks/ptq.py`.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network, activate, activation_of, last_readers, to_tensor
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization._assembly import assemble
from edgesearch.objectives.quantization._ceiling import octaves_under_the_ceiling
from edgesearch.objectives.quantization._channels import find_channels
from edgesearch.objectives.quantization._checks import check_value
from edgesearch.objectives.quantization._distance import Judge, clearly_less
from edgesearch.objectives.quantization._equalization import equalizing_scales, scaled
from edgesearch.objectives.quantization._grids import choose_grids
from edgesearch.objectives.quantization._output import choose_output_position
from edgesearch.objectives.quantization._positions import (
    Positions,
    obey_limits,
    output_position,
    owners,
    owns_position,
    round_half_away,
    round_half_up,
    search_position,
    with_coarse_biases,
)
from edgesearch.objectives.quantization._reconstruction import reconstruct
from edgesearch.objectives.quantization._sensitivity import measure
from edgesearch.objectives.quantization._vitis import quantize_as_it_is

#: The largest tensor over all images that is kept while layers are corrected, in elements.
_ELEMENTS = 64_000_000
#: Images computed at a time where all are looked at.
_PART = 16
#: Images that ranges and costs are measured on.
_IMAGES = 32
#: Images held back for the comparison with "vitis"; of fewer than so many none is.
_HELD, _FEW = 64, 10
#: Of fewer images "vitis" is taken: what is chosen by one or two, and judged by them, tells chance.
_LEAST = 3
#: Means of two such images, for each of them.
_MEANS = 3

#: What is compared: all that this method does, the same without learnt rounding, what Vitis AI's method makes.
Rival: TypeAlias = Literal["best", "unlearnt", "vitis"]

_LOG = logging.getLogger(__name__)


def quantize_best(graph: Graph, images: npt.NDArray[np.float32], *, bits: int = 8, seed: int = 0, device: str = "cpu") -> Graph:
    """See `quantize`. What was taken, and by which figures, is logged."""
    if len(images) < _LEAST:
        try:
            return with_coarse_biases(quantize_as_it_is(graph, images, bits=bits, device=device))
        except QuantizationError as error:
            _LOG.info('network %s: "vitis", which few images suffice for, cannot quantize it: %s', graph.name, error)
    shown, held = hold_back(images, seed)
    rivals = quantize_alone(graph, shown, bits=bits, seed=seed, device=device)
    judge = Judge.of(graph, judged_on(held, seed), device=device)
    distances = {name: judge.distances(rival) for name, rival in rivals.items()}
    try:
        rivals["vitis"] = with_coarse_biases(quantize_as_it_is(graph, images, bits=bits, device=device))
        distances["vitis"] = judge.distances(rivals["vitis"])
    except QuantizationError as error:  # its values may overflow where those of this method do not
        _LOG.info('network %s: nothing to compare with, since "vitis" cannot quantize it: %s', graph.name, error)
    taken = choose_rival(distances)
    figures = ", ".join(f"{name} {float(distance.mean()):.4g}" for name, distance in distances.items())
    _LOG.info(
        "network %s: distance from the float network on %d images: %s; %s is taken",
        graph.name,
        len(judge.images),
        figures,
        taken,
    )
    return rivals[taken]


def choose_rival(distances: Mapping[Rival, Tensor]) -> Rival:
    """Who is taken, by the distances (N,) of each from the float network on `judged_on` images that this method has not seen.

    What was learnt is given up where it clearly did harm, and for what "vitis" makes, if anything, wherever that is closer.
    """
    own: Rival = "unlearnt" if clearly_less(distances["unlearnt"], distances["best"]) else "best"
    return "vitis" if "vitis" in distances and distances["vitis"].mean() < distances[own].mean() else own


def hold_back(images: npt.NDArray[np.float32], seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Images to calibrate on, and those to compare on: a fifth, 64 at most.

    Of fewer than ten images none can be spared: they are calibrated and compared on alike.
    """
    if len(images) < _FEW:
        return images, images
    order = np.random.default_rng(seed).permutation(len(images))
    count = min(len(images) // 5, _HELD)
    held, shown = np.sort(order[:count]), np.sort(order[count:])  # in the order given, as "vitis" takes them
    return images[shown], images[held]


def judged_on(held: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """The images (N, ...) and, where there are several, up to three means of each with another one."""
    order = np.random.default_rng(seed).permutation(len(held))
    shifts = range(1, min(_MEANS, len(held) - 1) + 1)
    means = [(held[order] + held[np.roll(order, shift)]) / 2 for shift in shifts]
    return np.concatenate([held, *means]).astype(np.float32)


def quantize_alone(
    graph: Graph, images: npt.NDArray[np.float32], *, bits: int = 8, seed: int = 0, device: str = "cpu"
) -> dict[Rival, Graph]:
    """What this method makes of the network by itself: "best", and "unlearnt", the same without learnt rounding."""
    shown = shuffled(to_tensor(images), seed).to(device)
    exact = Network.of(graph).to(device)
    with torch.no_grad():
        found = find_grids(exact, shown, bits, seed)
        rounded = found.network.copy()
        positions = calibrate(rounded, shown, bits, found.positions)
        obey_limits(graph, positions)
        corrected = Network(graph, found.network.weights, rounded.biases)
        positions = choose_output_position(exact, corrected, positions, shown, bits)
    learnt = reconstruct(exact, corrected, positions, shown, bits, seed)
    return {"best": assemble(learnt, positions, bits), "unlearnt": assemble(corrected, positions, bits)}


def shuffled(images: Tensor, seed: int) -> Tensor:
    """The images in an order in which the first are a fair sample."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]


@dataclass(frozen=True)
class Grids:
    """A network with scaled channels, the scale of every channel id, and the positions of its values but the output's."""

    network: Network
    scales: Tensor
    positions: dict[str, int]


def find_grids(
    network: Network, images: Tensor, bits: int, seed: int, *, scale: bool = True, scale_relu6: bool = True
) -> Grids:
    """The grids that cost least at the logits; without `scale` the weights stay as they are.

    Channels behind a ReLU6 are scaled only as far as no image reaches the clip, or with `scale_relu6` False not at all.
    """
    channels, shown = find_channels(network.graph), images[:_IMAGES]
    sensitivity = measure(network, shown, seed)
    if not scale:
        _, positions = choose_grids(network, channels, [], sensitivity, shown, bits)
        return Grids(network, torch.ones(channels.count, dtype=torch.float64), positions)
    owned_by = owners(network.graph)
    ranges = {node.name: sensitivity.reach(node.name) for node in network.graph if owns_position(node, owned_by)}
    octaves = octaves_under_the_ceiling(network, channels, ranges, bits)
    lifted = network
    if octaves.any():
        lifted = scaled(network, channels, torch.exp2(octaves))
        sensitivity = measure(lifted, shown, seed)
    peaks = relu6_peaks(lifted, images) if scale_relu6 else None
    scales = octaves + equalizing_scales(lifted, channels, sensitivity, peaks)
    equalized = scaled(network, channels, torch.exp2(scales))
    sensitivity = measure(equalized, shown, seed)
    moves, positions = choose_grids(equalized, channels, channels.movable, sensitivity, shown, bits)
    scales = torch.exp2(scales + moves)
    return Grids(scaled(network, channels, scales), scales, positions)


def relu6_peaks(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Of every node with a ReLU6, the largest value of each channel (C,) on all images."""
    names = [node.name for node in network.graph if activation_of(node) == "relu6"]
    peaks: dict[str, Tensor] = {}
    for part in torch.split(images, _PART) if names else ():
        for name, value in network.run(part, keep=names).items():
            if name in names:
                peak = value.transpose(0, 1).flatten(1).amax(1)
                peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak
    return peaks


def calibrate(network: Network, images: Tensor, bits: int, values: Mapping[str, int]) -> Positions:
    """Positions and corrected biases, in execution order, everything before a layer already rounded.

    Each layer's weights are rounded and its bias shifted by what that moved its mean, both in place.
    Positions of activations are those of `values`; the output's see `output_position`, which `choose_output_position` betters.
    """
    graph, owned_by, positions = network.graph, owners(network.graph), Positions()
    images = images[: max(1, _ELEMENTS // max(int(np.prod(node.shape)) for node in graph))]
    output = owned_by[graph.output.name]
    exact: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    last = last_readers(graph)
    for node in graph:
        exact[node.name] = value = images
        if node.inputs:
            inputs = [rounded[name] for name in node.inputs]
            reference = network.before_activation(node, [exact[name] for name in node.inputs])
            check_value(node, reference)
            if isinstance(node, Conv | Depthwise | Linear):
                _round_layer(network, node, inputs[0], positions, bits)
            exact[node.name] = activate(activation_of(node), reference)
            value = network.compute(node, inputs)
        if owns_position(node, owned_by):
            fix = output_position(value, bits) if node.name == output else values[node.name]
            positions.values[node.name] = fix
            value = round_half_up(value, fix, bits)
        rounded[node.name] = value
        for name in dict.fromkeys(node.inputs):
            if last[name] == node.name:
                del exact[name], rounded[name]
    return positions


def _round_layer(network: Network, node: Conv | Depthwise | Linear, x: Tensor, positions: Positions, bits: int) -> None:
    """Round the layer's weights, then shift its bias by what that moves every channel's mean, and round that; in place.

    `x` is the layer's input as the layers before leave it. Only this layer's own error is put right: making good the errors
    before it as well lets the corrections grow from layer to layer.
    """
    weight = network.weights[node.name]
    positions.weights[node.name] = fix = search_position(weight, bits, weights=True)
    if node.name not in network.biases:
        network.weights[node.name] = round_half_away(weight, fix, bits)
        return
    exact = network.before_activation(node, [x])
    network.weights[node.name] = round_half_away(weight, fix, bits)
    error = network.before_activation(node, [x]) - exact
    bias = network.biases[node.name] - error.mean([d for d in range(error.ndim) if d != 1])
    positions.biases[node.name] = fix = search_position(bias, bits, weights=True)
    network.biases[node.name] = round_half_away(bias, fix, bits)
