"""A torch model as the DPU will compute it, trainable: convolution and batch-norm as one layer, every value on its grid."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.board_eval.execution import (
    Network,
    activate,
    activation_of,
    apply_layer,
    apply_node,
    block_mask,
    blocks,
    last_readers,
    spread_blocks,
)
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Input, Linear, Node
from edgesearch.board_eval.lowering import Lowered, lower_with_sources, parameter_of
from edgesearch.board_eval.targets import Target
from edgesearch.objectives.quantization._assembly import assemble
from edgesearch.objectives.quantization._channels import find_channels
from edgesearch.objectives.quantization._checks import check_graph
from edgesearch.objectives.quantization._equalization import layer_factors, read_shape
from edgesearch.objectives.quantization._fake_quant import Scale, fixes_of, round_value, round_weight, scales_of, threshold_of
from edgesearch.objectives.quantization._positions import (
    MAX_FIX,
    Positions,
    base_position,
    obey_limits,
    owners,
    owns_position,
)
from edgesearch.spaces import PooledNorm

#: A batch-norm that scales a channel by less than this has switched it off; dividing by it would only make noise.
_DEAD = 1e-8


_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
#: A fix position, or on a GPU, which should not be waited for, what it scales by.
_Grid: TypeAlias = int | Scale


class QatLayer(nn.Module):
    """One convolution or linear layer with the batch-norm behind it, weights and bias on their grids.

    Parameters are those of the float network, of a convolution in groups the blocks alone; `reads` and `makes` are the scales
    of the channels it reads and makes. Scales belong to the grids and not to the parameters: an optimizer that normalises its
    steps would train scaled channels at scaled rates.
    """

    weight: Tensor
    reads: Tensor
    makes: Tensor
    own: Tensor | None

    def __init__(self, node: Conv | Depthwise | Linear, weight: Tensor, bias: Tensor | None, norm: _Norm | None) -> None:
        super().__init__()
        self.node = node
        if isinstance(node, Conv) and node.picks is not None:  # its weights stay
            self.register_buffer("weight", weight.detach().clone())
        else:
            self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.norm = norm
        self.weight_threshold = nn.Parameter(torch.zeros(()))
        self.bias_threshold = nn.Parameter(torch.zeros(()))
        groups = node.groups if isinstance(node, Conv) else 1
        self.register_buffer("own", block_mask(weight, groups) if groups > 1 else None, persistent=False)
        read = len(weight) if isinstance(node, Depthwise) else weight.shape[1] * groups
        self.register_buffer("reads", self._along_read(torch.ones(read)))
        self.register_buffer("makes", torch.ones(len(weight)))
        self.frozen = norm is None

    def scale(self) -> Tensor | None:
        """What batch-norm multiplies each channel with, by its running statistics."""
        norm = self.norm
        if norm is None:
            return None
        assert norm.running_var is not None  # lowering has checked
        scale = torch.rsqrt(norm.running_var + norm.eps)
        return scale if norm.weight is None else scale * norm.weight

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias with batch-norm folded in and channels scaled, not rounded."""
        scale, norm = self.scale(), self.norm
        weight: Tensor = self._whole() * self.reads
        bias: Tensor | None = self.bias
        if norm is not None and scale is not None:
            assert norm.running_mean is not None
            weight = weight * _per_channel(scale, weight)
            bias = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
            bias = bias if norm.bias is None else bias + norm.bias
        return weight / _per_channel(self.makes, weight), None if bias is None else bias / self.makes

    @torch.no_grad()
    def fitting_bias(self, bits: int) -> int:
        """The finest position at which no bias saturates, batch-norm folded in as it is now."""
        _, bias = self.folded()
        return MAX_FIX if bias is None else min(base_position(bias, bits), MAX_FIX)

    @torch.no_grad()
    def rescale(self, reads: Tensor, makes: Tensor) -> None:
        """Multiply the channels read and divide those made by these scales, (channels,) each."""
        self.reads, self.makes = self._along_read(reads), makes

    def _whole(self) -> Tensor:
        """The weights as a Graph has them: with zeros between the groups."""
        return self.weight if self.own is None else spread_blocks(self.weight, self.own)

    def _along_read(self, values: Tensor) -> Tensor:
        """One value for each channel read, in a shape that multiplies weights."""
        return values.reshape(*read_shape(self.node), *[1] * (self.weight.ndim - 2))

    def forward(self, x: Tensor, fixes: tuple[_Grid, _Grid], bits: int) -> Tensor:
        """The layer's value before its activation. `fixes` are the positions of its weights and its bias, or their scales."""
        if self.frozen or not self.training:
            weight, bias = self.folded()
            weight = round_weight(weight, self.weight_threshold, fixes[0], bits)
            if bias is not None:
                bias = round_weight(bias, self.bias_threshold, fixes[1], bits)
            return apply_layer(self.node, x, weight, bias)
        scale = self.scale()
        assert scale is not None
        assert self.norm is not None
        scale = scale.detach()
        scale = _per_channel(torch.where(scale.abs() < _DEAD, torch.ones_like(scale), scale), self.weight)
        # the weights are rounded as they will be stored, folded and scaled; batch statistics normalise what comes out
        stored = scale / _per_channel(self.makes, self.weight)
        weight = round_weight(self._whole() * (self.reads * stored), self.weight_threshold, fixes[0], bits) / stored
        return self._normalise(self.norm, apply_layer(self.node, x, weight, self.bias))

    def _normalise(self, norm: _Norm, y: Tensor) -> Tensor:
        """Batch-norm by the statistics of `y`, its channels divided by the scales of what the layer makes."""
        if isinstance(norm, PooledNorm):
            return norm.in_front(y) / self.makes[:, None, None]
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        weight = 1 / self.makes if norm.weight is None else norm.weight / self.makes
        bias = None if norm.bias is None else norm.bias / self.makes
        return F.batch_norm(y, norm.running_mean, norm.running_var, weight, bias, training=True, momentum=share, eps=norm.eps)


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (weight.ndim - 1))


class QatNetwork(nn.Module):
    """The network in training. In evaluation mode it computes what the integer executor computes.

    What a node computes passes a module in `values`, so that hooks see it. `settled`: batch-norm went into biases, whose
    positions stay.
    """

    settled: Tensor

    def __init__(self, model: nn.Module, lowered: Lowered, bits: int) -> None:
        super().__init__()
        self.graph: Graph = lowered.graph
        self.bits = bits
        self._owned_by = owners(self.graph)
        self._last = last_readers(self.graph)
        modules = dict(model.named_modules())
        floats = Network.of(self.graph)
        self.layers = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        self.value_thresholds = nn.ParameterDict()
        self.values = nn.ModuleDict()
        self._frozen: list[int] | None = None  # positions of `thresholds`, once they stay
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))
        for place, node in enumerate(self.graph):
            key = self._keys[node.name] = f"n{place}"
            if not isinstance(node, Input):
                self.values[key] = nn.Identity()
            if isinstance(node, Conv | Depthwise | Linear):
                self.layers[key] = _layer(node, lowered, modules, floats)
            if owns_position(node, self._owned_by):
                self.value_thresholds[key] = nn.Parameter(torch.zeros(()))

    @classmethod
    def of(cls, model: nn.Module, input_shape: tuple[int, int, int], bits: int, target: Target | None) -> QatNetwork:
        """Of a torch model for images of `input_shape` (C, H, W) and the DPU `target`; None looks at no limits of one.

        Raises LoweringError, GraphError and QuantizationError for what cannot be quantized.
        """
        lowered = lower_with_sources(model, input_shape, target=target)
        check_graph(lowered.graph)
        return cls(model, lowered, bits)

    def layer(self, name: str) -> QatLayer:
        """The layer of a node."""
        layer = self.layers[self._keys[name]]
        assert isinstance(layer, QatLayer)
        return layer

    def module_of(self, name: str) -> str:
        """The name of the module that the value of a node passes."""
        return f"values.{self._keys[name]}"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, classes) logits."""
        fixes = self._grids()
        values: dict[str, Tensor] = {}
        for node in self.graph:
            values[node.name] = self._value(node, x, [values[name] for name in node.inputs], fixes)
            if not isinstance(node, Input):
                values[node.name] = self.values[self._keys[node.name]](values[node.name])
            for name in node.inputs:
                if self._last[name] == node.name:
                    values.pop(name, None)
        return values[self.graph.output.name].flatten(1)

    def _value(self, node: Node, x: Tensor, inputs: list[Tensor], fixes: Mapping[nn.Parameter, _Grid]) -> Tensor:
        if isinstance(node, Input):
            value = x
        elif isinstance(node, Conv | Depthwise | Linear):
            layer = self.layer(node.name)
            value = layer(inputs[0], (fixes[layer.weight_threshold], fixes[layer.bias_threshold]), self.bits)
        else:
            value = apply_node(node, inputs)
        kind = activation_of(node)
        key = self._keys[node.name]
        if key not in self.value_thresholds:
            return activate(kind, value)
        if kind == "leaky_relu":
            value = activate(kind, value)
        relu = kind in ("relu", "relu6")
        threshold = self.value_thresholds[key]
        return round_value(value, threshold, fixes[threshold], self.bits, relu=relu, top=6.0 if kind == "relu6" else None)

    # -- positions

    def positions(self) -> Positions:
        """The fix positions the thresholds stand for."""
        found, fixes = Positions(), self._fixes()
        for node in self.graph:
            key = self._keys[node.name]
            if key in self.value_thresholds:
                found.values[node.name] = fixes[self.value_thresholds[key]]
            if isinstance(node, Conv | Depthwise | Linear):
                layer = self.layer(node.name)
                found.weights[node.name] = fixes[layer.weight_threshold]
                if node.has_bias:
                    found.biases[node.name] = fixes[layer.bias_threshold]
        return found

    def _fixes(self) -> dict[nn.Parameter, int]:
        """Of all thresholds. A bias that batch-norm does not go into in training yet has no gradient that would move its own:
        it has the position that fits it now.
        """
        thresholds = self.thresholds()
        if self._frozen is not None:
            return dict(zip(thresholds, self._frozen, strict=True))
        found = dict(zip(thresholds, fixes_of(thresholds, self.bits), strict=True))
        if not self.settled:
            for layer in self.layers.values():
                assert isinstance(layer, QatLayer)
                if layer.norm is not None:
                    found[layer.bias_threshold] = layer.fitting_bias(self.bits)
        return found

    def _grids(self) -> Mapping[nn.Parameter, _Grid]:
        thresholds = self.thresholds()
        if self._frozen is not None or not self.training:
            return self._fixes()
        if not thresholds or not thresholds[0].is_cuda:
            return dict(zip(thresholds, fixes_of(thresholds, self.bits), strict=True))
        return dict(zip(thresholds, scales_of(thresholds, self.bits), strict=True))

    @torch.no_grad()
    def set_positions(self, positions: Positions) -> None:
        """Put every threshold in the middle of its fix position."""
        self._frozen = None
        for name, fix in positions.values.items():
            self.value_thresholds[self._keys[name]].fill_(threshold_of(fix, self.bits))
        for name, fix in positions.weights.items():
            self.layer(name).weight_threshold.fill_(threshold_of(fix, self.bits))
        for name, fix in positions.biases.items():
            self.layer(name).bias_threshold.fill_(threshold_of(fix, self.bits))

    def rescale(self, scales: Tensor) -> None:
        """Divide every channel by its scale where it is made, multiply it where it is read; `scales` as from `find_grids`."""
        channels = find_channels(self.graph)
        for node in self.graph:
            if isinstance(node, Conv | Depthwise | Linear):
                self.layer(node.name).rescale(*layer_factors(channels, node, scales))

    @torch.no_grad()
    def correct(self, biases: Mapping[str, Tensor]) -> None:
        """Take over the biases of a scaled network in layers without batch-norm, which finds its own shifts in training."""
        for name, bias in biases.items():
            layer = self.layer(name)
            if layer.norm is None and layer.bias is not None:
                layer.bias.copy_(bias * layer.makes)

    def thresholds(self) -> list[nn.Parameter]:
        """Every trainable threshold."""
        found = list(self.value_thresholds.values())
        for layer in self.layers.values():
            assert isinstance(layer, QatLayer)
            found += [layer.weight_threshold, layer.bias_threshold]
        return found

    def freeze(self) -> None:
        """From now on batch-norm is part of the weights and positions stay, within the limits of the DPU's shifts."""
        self._frozen = None
        positions = self.positions()
        self.settled.fill_(True)
        for layer in self.layers.values():
            assert isinstance(layer, QatLayer)
            layer.frozen = True
        obey_limits(self.graph, positions)
        if positions != self.positions():
            self.set_positions(positions)
        for threshold in self.thresholds():
            threshold.requires_grad_(False)
        self._frozen = fixes_of(self.thresholds(), self.bits)

    @torch.no_grad()
    def to_network(self) -> Network:
        """Copies of the weights and biases as they are now, batch-norm folded, not rounded."""
        network = Network(self.graph)
        for node in self.graph:
            if isinstance(node, Conv | Depthwise | Linear):
                weight, bias = self.layer(node.name).folded()
                network.weights[node.name] = weight.detach().cpu().clone(memory_format=torch.contiguous_format)
                if bias is not None:
                    network.biases[node.name] = bias.detach().cpu().clone()
        return network

    def to_graph(self) -> Graph:
        """The quantized Graph."""
        network, positions = self.to_network(), self.positions()
        obey_limits(self.graph, positions)
        return assemble(network, positions, self.bits)


def _layer(node: Conv | Depthwise | Linear, lowered: Lowered, modules: dict[str, nn.Module], floats: Network) -> QatLayer:
    """The layer behind a node: the torch layer's own weights and its batch-norm, or folded weights where there is none."""
    weight, bias = floats.weights[node.name], floats.biases.get(node.name)
    weight = blocks(weight, node.groups) if isinstance(node, Conv) else weight
    source = lowered.sources.get(node.name)
    # Of two batch-norms the first is the layer, and trains with the second folded.
    if source is None or source.batch_norm is None or isinstance(modules[source.module], _Norm):
        return QatLayer(node, weight, bias, None)
    norm = copy.deepcopy(modules[source.batch_norm]).cpu().requires_grad_(True)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    layer = QatLayer(node, weight, None, norm)
    module = modules[source.module]
    scale = layer.scale()
    assert scale is not None
    if isinstance(node, Linear):  # lowering may have reordered its inputs; undo the folding instead
        if float(scale.detach().abs().min()) < _DEAD:
            return QatLayer(node, weight, bias, None)
        own = weight / _per_channel(scale, weight)
    else:
        own = parameter_of(module, "weight").detach().cpu()
    own_bias = None if module.bias is None else parameter_of(module, "bias").detach().cpu()
    return QatLayer(node, own, own_bias, norm)
