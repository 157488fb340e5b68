"""From a quantized Graph to an xmodel file with the operations, attributes and constants that pytorch_nndct writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    SHAPE_SUFFIXES,
    Activation,
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Integers,
    Linear,
    Node,
    Pool,
    Reshape,
    Shape,
    check_is_graph,
    op_names,
    rounding_positions,
    weight_integers,
)
from edgesearch.board_eval.xmodel._nodes import store_nodes
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import XmodelError
from edgesearch.files import expanded, write_atomically

_FLOAT, _BITS = 4, 32  # data_type and tensor_bit_width of every tensor of an uncompiled xmodel
_ACTIVATIONS: dict[ActivationKind, str] = {"relu": "relu", "relu6": "relu6", "leaky_relu": "leaky-relu"}


def write_xmodel(graph: Graph, path: str | Path) -> None:
    """Write `graph` for vai_c_xir. The file appears whole or not at all; `read_xmodel` gives the same Graph again.

    Weights that are off their integer grid are rounded onto it, half away from zero. Raises QuantizationError when the graph
    has no weights or is not quantized, XmodelError when the file cannot be written, and for a node of a compiled file that
    does nothing but move values to another fix position.
    """
    check_is_graph(graph)
    path = expanded(path, "xmodel", XmodelError)
    data = _Writer(graph).run().SerializeToString(deterministic=True)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise XmodelError(f"{path} cannot be written: {error.strerror or error}") from error


class _Writer:
    """Constants first, then every node's operations in execution order, each group closed by its fix."""

    def __init__(self, graph: Graph) -> None:
        rounding_positions(graph)  # says what is not quantized
        self.graph = graph
        self.names = op_names(graph)
        self.message = graph_message()(graph_name=graph.name)
        self.values: dict[str, str] = {}  # node -> the operation whose result readers take

    def run(self) -> Any:
        for node in self.graph:
            self._constants(node)
        for node in self.graph:
            self._node(node)
        root = self.message.subg_root
        root.subgraph_name = "root"
        root.op_name.extend(op.op_name for op in self.message.op_node)
        store_nodes(root, self.graph, self.names)
        return self.message

    # -- messages

    def _op(self, name: str, kind: str, dims: Sequence[int], /, **arguments: Sequence[str]) -> Any:
        op = self.message.op_node.add(op_name=name, op_type=kind)
        for argument, sources in arguments.items():
            op.args.add(arg_name=argument, arg_ops=list(sources))
        tensor = op.output_tensor
        tensor.tensor_name, tensor.data_type, tensor.tensor_bit_width = name, _FLOAT, _BITS
        tensor.tensor_dim.extend(dims)
        return op

    def _const(self, name: str, values: npt.NDArray[np.float32]) -> None:
        op = self._op(name, "const", values.shape)
        _set(op, shape=list(values.shape), data_type="float32")
        op.op_attr["data"].bytes_value.value = np.ascontiguousarray(values, "<f4").tobytes()

    def _fix(self, source: str, shape: Sequence[int], position: int) -> str:
        op = self._op(f"{source}_fix", "fix", shape, input=[source])
        _set(op, fix_point=position, bit_width=self.graph.bits, round_mode="DPU_ROUND", if_signed=True)
        return f"{source}_fix"

    def _quantized_const(self, name: str, integers: Integers, position: int) -> None:
        self._const(name, np.ldexp(integers, -position).astype(np.float32))
        self._fix(name, integers.shape, position)

    # -- nodes

    def _constants(self, node: Node) -> None:
        names = self.names[node.name]
        match node:
            case Conv() | Depthwise() | Linear():
                weight, bias = weight_integers(node, self.graph.bits)
                self._quantized_const(names[0], weight[None] if isinstance(node, Depthwise) else weight, node.weight_fix or 0)
                if bias is not None:
                    self._quantized_const(names[1], bias, node.bias_fix or 0)
            case Pool(kind="avg"):
                self._const(names[1], np.array([node.factor], np.float32))
            case Reshape():
                self._shape_constants(names[0], node.shape)
            case _:
                pass

    def _shape_constants(self, name: str, shape: Shape) -> None:
        """The shape as nndct writes it: one constant per dimension, stacked."""
        full = (1, *shape)
        if len(full) != 2:
            return
        attr_1, attr_0, stack = (name + suffix for suffix in SHAPE_SUFFIXES)
        self._const(attr_1, np.array([full[1]], np.float32))
        self._const(attr_0, np.array([full[0]], np.float32))
        op = self._op(stack, "stack", (len(full), 1), input=[attr_0, attr_1])
        _set(op, axis=0)
        op.output_tensor.tensor_attr["shape_info"].int32_vec.value.extend(full)

    def _node(self, node: Node) -> None:
        names = self.names[node.name]
        sources = [self.values[source] for source in node.inputs]
        shape = (1, *node.shape)
        match node:
            case Input():
                _set(self._op(names[0], "data", shape), shape=list(shape), data_type="FLOAT32")
            case Conv() | Depthwise():
                self._conv(node, names, sources[0])
            case Linear():
                op = self._op(
                    names[-1 - _fused(node)], "matmul", shape, input=[*sources, f"{names[0]}_fix"], **_bias(node, names)
                )
                _set(op, transpose_a=False, transpose_b=True)
            case Pool():
                self._pool(node, names, sources[0])
            case Add():
                self._op(names[0], "add", shape, input=sources)
            case Concat():
                _set(self._op(names[0], "concat", shape, input=sources), axis=node.axis + 1)
            case Activation():
                if node.activation == "none":
                    raise XmodelError(
                        f"{node.name!r} of {self.graph.name!r} does nothing but move values to another fix position, which "
                        "only compiled xmodels have an operation for; write the network that the file was compiled from"
                    )
                self._activation(names[0], node.activation, shape, sources[0])
            case Reshape():
                self._reshape(names[0], shape, sources[0])
        if isinstance(node, Conv | Depthwise | Linear | Add) and node.activation != "none":
            self._activation(names[-1], node.activation, shape, names[-2])
        result = names[-1]
        if node.fix is not None and not isinstance(node, Reshape):
            result = self._fix(result, shape, node.fix)
        self.values[node.name] = result

    def _conv(self, node: Conv | Depthwise, names: tuple[str, ...], source: str) -> None:
        kind = "conv2d" if isinstance(node, Conv) else "depthwise-conv2d"
        name = names[-1 - _fused(node)]
        op = self._op(name, kind, (1, *node.shape), input=[source], weights=[f"{names[0]}_fix"], **_bias(node, names))
        channels_in = self.graph.by_name[node.inputs[0]].shape[-1]
        _set(
            op,
            kernel=list(node.kernel[::-1]),
            stride=list(node.stride[::-1]),
            dilation=list(node.dilation[::-1]),
            pad=list(node.padding),
            pad_mode="FLOOR",
            group=channels_in if isinstance(node, Depthwise) else 1,
            bias_term=node.has_bias,
            in_dim=channels_in,
            out_dim=node.shape[-1],
        )

    def _pool(self, node: Pool, names: tuple[str, ...], source: str) -> None:
        op = self._op(names[0], f"{node.kind}pool2d", (1, *node.shape), input=[source])
        _set(
            op,
            kernel=list(node.kernel[::-1]),
            stride=list(node.stride[::-1]),
            pad=list(node.padding),
            pad_mode="CEIL" if node.ceil_mode else "FLOOR",
        )
        op.op_attr["global"].bool_value = node.is_global
        if node.kind == "avg":
            _set(op, count_include_pad=True, count_include_invalid=True)
            self._op(names[2], "mul", (1, *node.shape), input=[names[0], names[1]])

    def _activation(self, name: str, kind: ActivationKind, shape: Sequence[int], source: str) -> None:
        op = self._op(name, _ACTIVATIONS[kind], shape, input=[source])
        if kind == "leaky_relu":
            _set(op, alpha=LEAKY_SLOPE)

    def _reshape(self, name: str, shape: Sequence[int], source: str) -> None:
        if len(shape) == 2:
            op = self._op(name, "reshape", shape, input=[source], shape=[name + SHAPE_SUFFIXES[2]])
            _set(op, shape=[0])  # the argument says it
        else:
            _set(self._op(name, "reshape", shape, input=[source]), shape=list(shape))


def _fused(node: Conv | Depthwise | Linear) -> int:
    return int(node.activation != "none")


def _bias(node: Conv | Depthwise | Linear, names: tuple[str, ...]) -> dict[str, list[str]]:
    return {"bias": [f"{names[1]}_fix"] if node.has_bias else []}  # nndct writes the argument empty, not left out


def _set(op: Any, **attributes: bool | int | float | str | list[int]) -> None:
    """Set attributes with the types XIR declares for them: bool, int32, float, string, int32 list."""
    for name, value in attributes.items():
        target = op.op_attr[name]
        if isinstance(value, bool):
            target.bool_value = value
        elif isinstance(value, int):
            target.int32_value = value
        elif isinstance(value, float):
            target.float_value = value
        elif isinstance(value, str):
            target.string_value = value
        else:
            target.int32_vec.value.extend(value)
