"""The weighted layers, activations, additions and concatenations of a traced torch model as nodes of a Graph.

Batch-norm is folded into the layer before it, an activation is fused with it, and a flatten is merged into the linear layer
behind it, where torch's (C, H, W) order of elements becomes (H, W, C).
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgesearch.board_eval.execution import block_mask, spread_blocks
from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Linear,
    Node,
    Reshape,
    Shape,
    window_output,
)
from edgesearch.board_eval.lowering._batch_norm import batch_norm_factors, fold_batch_norm
from edgesearch.board_eval.lowering._reasons import reason_for
from edgesearch.board_eval.lowering._values import BlockedByEarlierProblem, Source, Unsupported, name_of
from edgesearch.board_eval.lowering._weights import array, parameter_of
from edgesearch.board_eval.lowering._windows import Windows, padding_of, pair


class Layers(Windows):
    """Every kind of layer that the Graph has a node for, one method each."""

    def pad(self, at: fx.Node, sides: Any) -> bool:
        """Zeros around an image, left, right, above and below as torch gives them; whether they are such."""
        if not isinstance(sides, list | tuple) or not all(isinstance(side, int) for side in sides):
            return False
        given = list(sides) + [0] * (4 - len(sides))
        left, right, top, bottom = given[:4]
        if any(given[4:]) or min(given) < 0:
            return False
        source, (own_left, own_right, own_top, own_bottom) = self.bare(at.args[0])
        self.image(source)
        self.values[at] = source
        zeros = (own_left + left, own_right + right, own_top + top, own_bottom + bottom)
        if any(zeros):
            self.padded[at] = zeros
        return True

    def conv(self, at: fx.Node, module: nn.Conv2d) -> None:
        source, zeros = self.bare(at.args[0])
        height, width, channels = self.image(source)
        if channels != module.in_channels:
            raise Unsupported(f"expects {module.in_channels} channels, is given {channels}")
        if module.padding_mode != "zeros" and any(module._reversed_padding_repeated_twice):
            raise Unsupported(f"padding mode {module.padding_mode!r}; the DPU pads with zeros; use padding_mode='zeros'")
        kernel, stride, dilation = pair(module.kernel_size), pair(module.stride), pair(module.dilation)
        own = padding_of(module.padding, kernel, dilation)
        padding = left, right, top, bottom = tuple(a + b for a, b in zip(own, zeros, strict=True))
        out_h = window_output(height, top + bottom, kernel[0], stride[0], dilation[0])
        out_w = window_output(width, left + right, kernel[1], stride[1], dilation[1])
        if out_h < 1 or out_w < 1:
            raise Unsupported(f"kernel {kernel} on an input of {height} x {width}")
        weight = array(parameter_of(module, "weight"))
        common: dict[str, Any] = {
            "name": str(at.target),
            "inputs": (source,),
            "shape": (out_h, out_w, module.out_channels),
            "bias": None if module.bias is None else array(parameter_of(module, "bias")),
            "has_bias": module.bias is not None,
            "kernel": kernel,
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
        }
        if 1 < module.groups == module.in_channels == module.out_channels:
            self.weighted(at, Depthwise(weight=np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), **common))
            return
        if module.groups > 1:
            given = torch.from_numpy(weight)
            weight = spread_blocks(given, block_mask(given, module.groups)).numpy()
        whole = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
        self.weighted(at, Conv(weight=whole, groups=module.groups, **common))

    def linear(self, at: fx.Node, module: nn.Linear) -> None:
        source = self.value(at.args[0])
        shape = self.shape(source)
        if len(shape) != 1:
            expected = f"expects {module.in_features} features"
            raise Unsupported(f"{expected}, is given an image of shape {shape} (height, width, channels); flatten it first")
        if shape != (module.in_features,):
            raise Unsupported(f"expects {module.in_features} features, is given a tensor of shape {shape}")
        weight = array(parameter_of(module, "weight"))
        if source in self.flattened:
            h, w, c = self.flattened[source]
            weight = np.ascontiguousarray(weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(weight.shape))
        bias = None if module.bias is None else array(parameter_of(module, "bias"))
        node = Linear(
            name=str(at.target),
            inputs=(source,),
            shape=(module.out_features,),
            weight=weight,
            bias=bias,
            has_bias=bias is not None,
        )
        self.weighted(at, node)

    def known_shape(self, operand: Any) -> Shape | None:
        """That of an operand's value; None where what makes it was refused."""
        known = self.values.get(operand) if isinstance(operand, fx.Node) else None
        return None if known is None else self.shape(known)

    def reason(self, at: fx.Node, module: nn.Module | None) -> str:
        """Why an operation is refused; raises Unsupported with what can be done instead where it reads half an image."""
        source = at.args[0] if at.args else None
        if self.half(source) is not None:
            self.value(source)
        return reason_for(at, module, self.target, self.known_shape(source))

    def weighted(self, at: fx.Node, node: Node) -> None:
        """Add a layer with weights as the value of `at`."""
        self.put(at, node)
        self.sources[self.values[at]] = Source(name_of(at), None)

    def batch_norm(self, at: fx.Node, module: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        source = self.value(at.args[0])
        node = self.nodes[source]
        if module.running_mean is None or module.running_var is None:
            raise Unsupported("batch-norm without running statistics; give it track_running_stats=True")
        of_images = isinstance(module, nn.BatchNorm2d)
        if of_images != (len(node.shape) == 3):
            other = "BatchNorm1d" if of_images else "BatchNorm2d"
            raise Unsupported(f"reads {'a vector' if of_images else 'an image'}, which torch refuses; use {other}")
        if module.num_features != node.shape[-1]:
            raise Unsupported(f"expects {module.num_features} channels, is given {node.shape[-1]}")
        scale, shift = batch_norm_factors(module)
        foldable = (
            isinstance(node, Conv | Depthwise | Linear)
            and node.activation == "none"
            and self._only_reader(at, source)
            and self.sources[source].batch_norm is None
        )
        self.joins_vectors |= foldable and isinstance(node, Linear)
        if foldable and not (self.apart and isinstance(node, Linear)):
            assert isinstance(node, Conv | Depthwise | Linear)
            self.nodes[source] = fold_batch_norm(node, scale, shift)
            if source not in self.with_constants:
                self.sources[source] = Source(self.sources[source].module, str(at.target))
            self.values[at] = source
            return
        if self._fold_before_concat(at, node, scale, shift):
            self.values[at] = source
            return
        self._scale_value(at, source, scale, shift)

    def affine(
        self, at: fx.Node, operand: Any, scale: Array, shift: Array, *, inplace: bool = False, unread: bool = True
    ) -> None:
        """Channels of `operand` times `scale`, plus `shift`, (C,) each in torch's order; `unread` is that of `_rebind`."""
        source = self.value(operand)
        if inplace:
            self.check_in_place(at)
        layer = self.vector_scales.get(source, source)
        node = self.nodes[layer]
        if (
            isinstance(node, Conv | Depthwise | Linear)
            and node.activation == "none"
            and self._only_reader(at, source, inplace=inplace)
        ):
            if source in self.flattened:
                scale, shift = self._as_flattened(source, scale, shift)
            self.nodes[layer] = fold_batch_norm(node, scale, shift)
            self.sources[layer] = Source(self.sources[layer].module, None)
            self.with_constants.add(layer)
            self.values[at] = source
            if inplace:
                self.share(at, operand)
            return
        self._scale_value(at, source, scale, shift)
        self.with_constants.add(self.vector_scales.get(self.values[at], self.values[at]))
        if inplace:
            self._rebind(at, unread=unread)

    def _scale_value(self, at: fx.Node, source: str, scale: Array, shift: Array) -> None:
        if len(self.shape(source)) == 1:
            self._scale_vector(at, source, scale, shift)
        else:
            self._scale(at, source, scale, shift)

    def _scale(self, at: fx.Node, source: str, scale: Array, shift: Array) -> None:
        common: dict[str, Any] = {"name": name_of(at), "inputs": (source,), "shape": self.image(source)}
        self.weighted(at, Depthwise(kernel=(1, 1), weight=scale.reshape(1, 1, -1), bias=shift, scale=True, **common))

    def _scale_vector(self, at: fx.Node, source: str, scale: Array, shift: Array) -> None:
        """A factor and a shift for each element of a vector, which the DPU takes as an image of one pixel."""
        size = len(scale)
        if source in self.flattened:
            scale, shift = self._as_flattened(source, scale, shift)
        self.put(at, Reshape(name=f"{name_of(at)}_pixel", inputs=(source,), shape=(1, 1, size)), "_pixel")
        self._scale(at, self.values[at], scale, shift)
        layer = self.values[at]
        self.put(at, Reshape(name=f"{name_of(at)}_vector", inputs=(layer,), shape=(size,)), "_vector")
        self.vector_scales[self.values[at]] = layer
        if source in self.flattened:
            self.flattened[self.values[at]] = self.flattened[source]

    def _as_flattened(self, source: str, *values: Array) -> list[Array]:
        """Values for each element of a flattened image, in torch's order, in the order (H, W, C)."""
        h, w, c = self.flattened[source]
        return [each.reshape(c, h, w).transpose(1, 2, 0).ravel() for each in values]

    def _fold_before_concat(self, at: fx.Node, node: Node, scale: Array, shift: Array) -> bool:
        """Whether `node` is a concat of channels of convolutions that nothing else reads; if so each takes its part."""
        if not isinstance(node, Concat) or node.axis != 2 or not self._only_reader(at, node.name):
            return False
        # convolutions with a batch-norm of their own stay: training could not tell the two apart
        parts = [self.nodes[name] for name in node.inputs]
        concat = self._aliases(node.name)[0]
        if len({*node.inputs}) < len(parts) or any(
            not isinstance(part, Conv | Depthwise)
            or part.activation != "none"
            or self.sources[part.name].batch_norm is not None
            or not self._only_reader(concat, part.name)
            for part in parts
        ):
            return False
        start = 0
        for part in parts:
            assert isinstance(part, Conv | Depthwise)
            end = start + part.shape[-1]
            self.nodes[part.name] = fold_batch_norm(part, scale[start:end], shift[start:end])
            start = end
        return True

    def activation(self, at: fx.Node, kind: ActivationKind, *, inplace: bool = False, keeps_clip: bool = False) -> None:
        source = self.value(at.args[0])
        if inplace:
            self.check_in_place(at)
        layer = self.vector_scales.get(source, source)
        node = self.nodes[layer]
        if (
            isinstance(node, Conv | Depthwise | Linear | Add)
            and node.activation == "none"
            and self._only_reader(at, source, inplace=inplace)
        ):
            self.nodes[layer] = dataclasses.replace(node, activation=kind, keeps_clip=keeps_clip)
            self.operations[layer] = (self.operations[layer][0], self.operation_name(at))
            self.values[at] = source
            if inplace:
                self.share(at, at.args[0])
            return
        common: dict[str, Any] = {"name": name_of(at), "inputs": (source,), "shape": self.shape(source)}
        self.put(at, Activation(activation=kind, keeps_clip=keeps_clip, **common))
        if source in self.flattened:
            self.flattened[self.values[at]] = self.flattened[source]
        if inplace:
            self._rebind(at)

    def leaky(self, at: fx.Node, slope: float, *, inplace: bool = False) -> None:
        if not isinstance(slope, int | float) or not 0.1 <= slope <= LEAKY_SLOPE:  # as 0.1 it is written in most networks
            raise Unsupported(f"slope {slope}; the DPU computes leaky ReLU with 26/256 only: train with that, or with 0.1")
        self.activation(at, "leaky_relu", inplace=inplace)

    def add(self, at: fx.Node, *, inplace: bool = False) -> None:
        numbers = [operand for operand in at.args[:2] if isinstance(operand, int | float)]
        if numbers == [0] and at.kwargs.get("alpha", 1) == 1:  # where Python's sum begins
            self.values[at] = self.value(next(operand for operand in at.args[:2] if isinstance(operand, fx.Node)))
            if inplace:
                self.share(at, at.args[0])
            return
        if numbers:  # others are lowered before
            factor = at.kwargs.get("alpha", 1) != 1
            raise Unsupported("an addition with a factor" if factor else f"an operand that is the constant {numbers[0]!r}")
        if inplace:
            self.check_in_place(at)
        a, b = (self.in_torch_order(self.value(operand)) for operand in at.args[:2])
        if self.shape(a) != self.shape(b):
            raise Unsupported(f"an addition of shapes {self.shape(a)} and {self.shape(b)}")
        if at.kwargs.get("alpha", 1) != 1:
            raise Unsupported("an addition with a factor")
        self.put(at, Add(name=at.name, inputs=(a, b), shape=self.shape(a)))
        if inplace:
            self._rebind(at, unread=at.target is not operator.iadd)

    def concat(self, at: fx.Node, tensors: Any, axis: Any) -> None:
        if isinstance(tensors, fx.Node) and tensors not in self.values:
            raise BlockedByEarlierProblem  # the parts of what was refused
        if not isinstance(tensors, list | tuple) or not isinstance(axis, int):
            raise Unsupported("a concatenation of something other than a list of tensors")
        names = tuple(self.value(t) for t in tensors)
        if all(len(self.shape(name)) == 1 for name in names) and axis in (1, -1):
            self._concat_vectors(at, names)
            return
        shapes = [self.image(n) for n in names]
        position = {1: 2, 2: 0, 3: 1}.get(axis % 4)  # NCHW axis -> position in (H, W, C)
        if position is None:
            raise Unsupported("a concatenation along the batch")
        if any(s[i] != shapes[0][i] for s in shapes for i in range(3) if i != position):
            raise Unsupported(f"a concatenation of shapes {shapes}")
        joined = list(shapes[0])
        joined[position] = sum(s[position] for s in shapes)
        self.put(at, Concat(name=at.name, inputs=names, shape=tuple(joined), axis=position))

    def _concat_vectors(self, at: fx.Node, names: tuple[str, ...]) -> None:
        """Vectors one behind the other, which the DPU takes as the channels of images of one pixel."""
        if any(name in self.flattened for name in names):
            raise Unsupported("a concatenation of flattened images; join them along their channels, in front of the flatten")
        pixels = []
        for place, name in enumerate(names):
            node = self.nodes[name]
            if isinstance(node, Reshape) and self.shape(node.inputs[0]) == (1, 1, *node.shape):
                pixels.append(node.inputs[0])  # what was an image of one pixel before
                continue
            self.put(at, Reshape(name=f"{at.name}_pixel", inputs=(name,), shape=(1, 1, *node.shape)), f"_pixel_{place}")
            pixels.append(self.values[at])
        size = sum(self.shape(name)[0] for name in names)
        self.put(at, Concat(name=at.name, inputs=tuple(pixels), shape=(1, 1, size), axis=2))
        self.put(at, Reshape(name=f"{at.name}_vector", inputs=(self.values[at],), shape=(size,)), "_vector")

    def identity(self, at: fx.Node) -> None:
        self.copy(at)
        self.share(at, at.args[0])

    def copy(self, at: fx.Node) -> None:
        """The values of the operand in memory of their own."""
        self.values[at] = self.value(at.args[0])
