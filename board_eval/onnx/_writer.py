"""From a quantized Graph to ONNX: QuantizeLinear and DequantizeLinear pairs wherever the DPU rounds.

ONNX rounds ties to even, the DPU rounds them up. Every value is a multiple of a known power of two before it is rounded, so
half of that is added: ties go up and nothing else moves. Biases are 8-bit integers behind a DequantizeLinear of their own, as
on the DPU; onnxruntime would round plain numbers to 32 bits at a scale of its choice, and lose the half with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    average_ratio,
    check_is_graph,
    rounding_positions,
    weight_integers,
)
from edgesearch.errors import GraphError, QuantizationError
from edgesearch.files import expanded, write_atomically

if TYPE_CHECKING:
    import onnx

_OPSET = 17  # the oldest in common use; every operation below is older


def write_onnx(graph: Graph, path: str | Path) -> None:
    """Write `graph` as an ONNX model that computes what the DPU computes, in QDQ form, for any batch size.

    Input `input`: float32 (N, C, H, W), already normalised. Output `logits`: float32 (N, classes). onnxruntime gives the DPU's
    integers, but for a few behind a leaky ReLU where a sum reaches 2^20 of its smallest bits, and for exact ties of averages of
    more than 20 x 20 values. The file appears whole or not at
    all. Raises QuantizationError when the graph is not quantized or not of 8 bits, GraphError when the file cannot be written.
    """
    check_is_graph(graph)
    if graph.bits != 8:
        raise QuantizationError(f"network {graph.name!r} has {graph.bits} bits; ONNX files are written for 8 bits only")
    path = expanded(path, "ONNX file", GraphError)
    data = _Writer(graph).run().SerializeToString(deterministic=True)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise GraphError(f"{path} cannot be written: {error.strerror or error}") from error


class _Writer:
    """`values` maps (node, fix position) to the ONNX value that holds it, dequantized."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.positions = rounding_positions(graph)
        self.values: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._names: set[str] = set()

    def run(self) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        for node in self.graph:
            for fix in self.positions[node.name]:
                self._node(node, fix)
        output = self.graph.output
        (output_fix,) = self.positions[output.name]
        self._op("Identity", [self.values[output.name, output_fix]], "logits")
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *_nchw(self.graph.input.shape)])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *_nchw(output.shape)])]
        graph = helper.make_graph(self.nodes, self.graph.name or "network", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, producer_name="edgesearch", opset_imports=opsets, ir_version=8)

    # -- building blocks

    def _op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        unique, number = output, 1
        while unique in self._names:  # "a" with a leaky ReLU beside "a_leaky" with a ReLU
            unique, number = f"{output}_{number}", number + 1
        self._names.add(unique)
        self.nodes.append(helper.make_node(kind, list(inputs), [unique], name=unique, **attributes))
        return unique

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def _scalar(self, name: str, value: float) -> str:
        return self._constant(name, np.full((), value, np.float32))

    def _scale(self, fix: int) -> list[str]:
        """Scale and zero point of a fix position."""
        scale = self._scalar(f"scale_{fix}".replace("-", "minus_"), 2.0**-fix)
        return [scale, self._constant("zero_point", np.zeros((), np.int8))]

    def _rounded(self, node: Node, fix: int, value: str) -> None:
        name = self._name(node, fix)
        quantized = self._op("QuantizeLinear", [value, *self._scale(fix)], f"{name}_quantized")
        self.values[node.name, fix] = self._op("DequantizeLinear", [quantized, *self._scale(fix)], f"{name}_rounded")

    def _name(self, node: Node, fix: int) -> str:
        several = len(self.positions[node.name]) > 1
        return f"{node.name}_at_{fix}" if several else node.name

    def _activated(self, kind: ActivationKind, value: str, fix: int, name: str) -> str:
        match kind:
            case "relu":
                return self._op("Relu", [value], f"{name}_relu")
            case "relu6":
                bounds = [self._scalar("zero", 0), self._scalar("six", 6)]
                return self._op("Clip", [value, *bounds], f"{name}_relu6")
            case "leaky_relu":
                return self._half_up(self._op("LeakyRelu", [value], f"{name}_leaky_relu", alpha=LEAKY_SLOPE), fix, name)
            case _:
                return value

    # -- nodes

    def _source(self, name: str, fix: int) -> tuple[str, int]:
        own = self.graph.fix_of(name)
        fix = fix if own is None else own
        return self.values[name, fix], fix

    def _node(self, node: Node, fix: int) -> None:
        if isinstance(node, Input):
            is_taken = any(other.name == "input" for other in self.graph if other is not node)
            self._rounded(node, fix, self._half_up("input", fix, node.name if is_taken else "input"))
            return
        name = self._name(node, fix)
        sources = [self._source(source, fix) for source in node.inputs]
        if isinstance(node, Reshape):
            self.values[node.name, fix] = self._reshape(node, sources[0][0], name)
            return
        match node:
            case Conv() | Depthwise() | Linear():
                value = self._layer(node, sources[0], fix, name)
            case Pool():
                value = self._pool(node, sources[0], fix, name)
            case Add():
                value = self._op("Add", [sources[0][0], sources[1][0]], f"{name}_sum")
                value = self._broken(node, value, max(sources[0][1], sources[1][1]), fix, name)
            case Concat():
                axis = {0: 2, 1: 3, 2: 1}[node.axis] if len(node.shape) == 3 else node.axis + 1
                value = self._op("Concat", [value for value, _ in sources], f"{name}_joined", axis=axis)
                value = self._broken(node, value, max(f for _, f in sources), fix, name)
            case _:
                value = self._broken(node, sources[0][0], sources[0][1], fix, name)
        if isinstance(node, Add | Activation):
            value = self._activated(node.activation, value, fix, name)
        self._rounded(node, fix, value)

    def _half_up(self, value: str, fix: int, name: str) -> str:
        """A value rounded half up, on the grid of `fix`: floor(x), and one more where the rest is at least a half."""
        units = self._scalar(f"units_{fix}".replace("-", "minus_"), 2.0**fix)
        scaled = self._op("Mul", [value, units], f"{name}_scaled")
        floor = self._op("Floor", [scaled], f"{name}_floor")
        rest = self._op("Sub", [scaled, floor], f"{name}_rest")
        half = self._scalar("half", 0.5)
        up = self._op("Cast", [self._op("GreaterOrEqual", [rest, half], f"{name}_is_up")], f"{name}_up", to=1)
        return self._op("Mul", [self._op("Add", [floor, up], f"{name}_integer"), self._scale(fix)[0]], f"{name}_on_grid")

    def _broken(self, node: Node, value: str, unit: int, fix: int, name: str) -> str:
        """The value with its ties broken upwards, if rounding to `fix` drops any of its bits.

        Behind a leaky ReLU, whose slope has eight more bits, half of the smallest bit would be lost in large sums: what it puts
        out is rounded half up there.
        """
        if unit <= fix or getattr(node, "activation", "none") == "leaky_relu":
            return value
        half = self._scalar(f"tie_{unit}".replace("-", "minus_"), 2.0 ** -(unit + 1))  # half of the smallest bit
        return self._op("Add", [value, half], f"{name}_ties_up")

    def _layer(self, node: Conv | Depthwise | Linear, source: tuple[str, int], fix: int, name: str) -> str:
        weight, bias = weight_integers(node, 8)
        fix_weight, fix_bias = node.weight_fix or 0, node.bias_fix or 0
        layout = {Conv: (0, 3, 1, 2), Depthwise: (2, 0, 1), Linear: (0, 1)}[type(node)]
        stored = weight.transpose(layout)
        stored = stored[:, None] if isinstance(node, Depthwise) else stored
        quantized = self._constant(f"{node.name}.weight", stored.astype(np.int8))
        weights = self._op("DequantizeLinear", [quantized, *self._scale(fix_weight)], f"{name}_weight")
        integers = np.zeros(node.shape[-1], np.int8) if bias is None else bias.astype(np.int8)
        biases = self._constant(f"{node.name}.bias", integers)
        offset = self._op("DequantizeLinear", [biases, *self._scale(fix_bias)], f"{name}_bias")
        if isinstance(node, Linear):
            value = self._op("Gemm", [source[0], weights, offset], f"{name}_linear", transB=1)
        else:
            left, right, top, bottom = node.padding
            value = self._op(
                "Conv",
                [source[0], weights, offset],
                f"{name}_conv",
                kernel_shape=list(node.kernel),
                strides=list(node.stride),
                dilations=list(node.dilation),
                pads=[top, left, bottom, right],
                group=node.shape[-1] if isinstance(node, Depthwise) else 1,
            )
        unit = max(fix_weight + source[1], fix_bias if bias is not None else fix)
        value = self._broken(node, value, unit, fix, name)
        return self._activated(node.activation, value, fix, name)

    def _pool(self, node: Pool, source: tuple[str, int], fix: int, name: str) -> str:
        height, width = self.graph.by_name[node.inputs[0]].shape[:2]
        left, _, top, _ = node.padding
        # explicit padding to the last window's end serves both roundings of the output size
        bottom = (node.shape[0] - 1) * node.stride[0] + node.kernel[0] - height - top
        right = (node.shape[1] - 1) * node.stride[1] + node.kernel[1] - width - left
        window = {
            "kernel_shape": list(node.kernel),
            "strides": list(node.stride),
            "pads": [top, left, max(bottom, 0), max(right, 0)],
        }
        if max(left, right) >= node.kernel[1] or max(top, bottom) >= node.kernel[0]:
            raise QuantizationError(f"pool {node.name!r} has windows that lie in the padding, which ONNX does not have")
        if node.kind == "max":
            value = self._op("MaxPool", [source[0]], f"{name}_max", **window)
            return self._broken(node, value, source[1], fix, name)
        value = self._op("AveragePool", [source[0]], f"{name}_mean", count_include_pad=1, **window)
        if node.factor != 1.0:
            factor = self._scalar(f"{node.name}.factor", node.factor)
            value = self._op("Mul", [value, factor], f"{name}_average")
        denominator = average_ratio(node.kernel, node.factor).denominator
        if denominator & (denominator - 1):  # not the DPU's average: no smallest bit, but a smallest step between it and a tie
            step = 2.0 ** -max(source[1], fix + 1) / denominator
            return self._op("Add", [value, self._scalar(f"{name}.tie", step / 2)], f"{name}_ties_up")
        return self._broken(node, value, source[1] + denominator.bit_length() - 1, fix, name)

    def _reshape(self, node: Reshape, source: str, name: str) -> str:
        shape = self.graph.by_name[node.inputs[0]].shape
        if len(shape) == 3:
            source = self._op("Transpose", [source], f"{name}_nhwc", perm=[0, 2, 3, 1])
        sizes = self._constant(f"{node.name}.shape", np.array([-1, *node.shape], np.int64))
        value = self._op("Reshape", [source, sizes], f"{name}_reshaped")
        return self._op("Transpose", [value], f"{name}_nchw", perm=[0, 3, 1, 2]) if len(node.shape) == 3 else value


def _nchw(shape: tuple[int, ...]) -> list[int]:
    return [shape[2], shape[0], shape[1]] if len(shape) == 3 else list(shape)
