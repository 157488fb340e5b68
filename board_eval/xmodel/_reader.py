"""From an xmodel file to a Graph. Whatever the file holds, the outcome is a Graph or an XmodelError, in bounded memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Array,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    limits,
    parts_of,
    reads_unrounded,
    round_activations,
)
from edgesearch.board_eval.xmodel._message import parse_message
from edgesearch.board_eval.xmodel._nodes import stored_nodes
from edgesearch.board_eval.xmodel._ops import MAX_FIX, NOT_READ, Op
from edgesearch.board_eval.xmodel._padding import fold_padding, read_pad
from edgesearch.errors import GraphError, XmodelError
from edgesearch.files import expanded

_ACTIVATIONS: dict[str, ActivationKind] = {"relu": "relu", "relu6": "relu6", "leaky-relu": "leaky_relu"}
#: Operations that only exist after compilation.
_COMPILED = ("fix2float", "float2fix", "upload", "download", "conv2d-fix", "data-fix", "const-fix")


def read_xmodel(path: str | Path) -> Graph:
    """The network in an uncompiled, quantized xmodel, as pytorch_nndct or this program wrote it.

    Raises XmodelError when the file cannot be read, is not an xmodel, is compiled, or holds operations the DPU does not have.
    """
    path = expanded(path, "xmodel", XmodelError)
    try:
        return _Reader(parse_message(path)).run()
    except OSError as error:
        raise XmodelError(f"{path} cannot be read: {error.strerror or error}") from error
    except GraphError as error:
        raise XmodelError(f"{path} does not hold a well-formed network: {error}") from error
    except XmodelError as error:
        raise XmodelError(f"{path} cannot be read as an xmodel: {error}") from error


class _Reader:
    """One walk over the operations; `values` maps each operation to the node whose value it stands for."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.ops: dict[str, Op] = {}
        self.readers: dict[str, int] = {}
        self.values: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Array] = {}
        self.constant_fix: dict[str, tuple[str, int]] = {}
        self.bits: int | None = None
        #: Images of one pixel that are read as vectors: means over height and width, scaled vectors.
        self.vectors: set[str] = set()
        self.pads: list[str] = []

    def run(self) -> Graph:
        self._collect()
        for op in self.ops.values():
            handler = _HANDLERS.get(op.type)
            assert handler is not None  # _collect has checked
            handler(self, op)
        self._position_of_input()
        fold_padding(self.nodes, self.pads)
        nodes = self._ordered()
        return Graph(self.message.graph_name or "network", stored_nodes(self.message.subg_root, nodes), self.bits or 8)

    def _collect(self) -> None:
        for message in self.message.op_node:
            op = Op(message)
            if not op.name or op.name in self.ops:
                raise op.error("has no name of its own; every operation needs one")
            for source in op.reads:
                if source not in self.ops:
                    raise op.error(f"reads {source[:200]!r}, which does not come before it")
                self.readers[source] = self.readers.get(source, 0) + 1
            self.ops[op.name] = op
        unknown = sorted({op.type for op in self.ops.values()} - set(_HANDLERS))
        if any(kind in _COMPILED for kind in unknown):
            raise XmodelError("it is a compiled xmodel; give the quantizer's own file, *_int.xmodel")
        if unread := sorted(set(unknown) & NOT_READ):
            raise XmodelError(
                f"its operations {', '.join(map(repr, unread))} are the DPU's, and this tool does not read them yet"
            )
        if unknown:
            raise XmodelError(f"its operations {', '.join(repr(u[:50]) for u in unknown[:8])} have no form on the DPU")

        named = set(self.message.subg_root.op_name)
        if named != set(self.ops) and not self.message.subg_root.subg_child:
            raise XmodelError(f"its root subgraph names {len(named)} of {len(self.ops)} operations; the file was cut off")

    def _position_of_input(self) -> None:
        """pytorch_nndct rounds an input behind the ReLU that alone reads it; rounding it there already changes nothing."""
        for node in [n for n in self.nodes.values() if isinstance(n, Input) and n.fix is None]:
            readers = [n for n in self.nodes.values() if node.name in n.inputs]
            if len(readers) == 1 and isinstance(readers[0], Activation) and reads_unrounded(readers[0]):
                relu = readers[0]
                # a concat rounds for its parts
                owners = [n for n in self.nodes.values() if relu.name in n.inputs] if relu.fix is None else [relu]
                if len(owners) == 1 and reads_unrounded(owners[0]):
                    self.nodes[node.name] = dataclasses.replace(node, fix=owners[0].fix)

    def _ordered(self) -> list[Node]:
        read = {source for node in self.nodes.values() for source in node.inputs}
        outputs = [node.name for node in self.nodes.values() if node.name not in read]
        if len(outputs) != 1:
            raise XmodelError(f"it has {len(outputs)} outputs, expected exactly one")
        output = self._as_vector(self.nodes[outputs[0]])
        return [*(node for name, node in self.nodes.items() if name != output), self.nodes[output]]

    # -- constants and fix positions

    def const(self, op: Op) -> None:
        self.constants[op.name] = op.constant()

    def fix(self, op: Op) -> None:
        position, source = op.integer("fix_point"), op.argument("input")
        if abs(position) > MAX_FIX:
            raise op.error(f"has fix position {position}, expected one within -{MAX_FIX}..{MAX_FIX}")
        if not op.boolean("if_signed", True) or op.text("round_mode", "DPU_ROUND") != "DPU_ROUND":
            raise op.error("rounds other than signed and half up (DPU_ROUND), which the DPU does not do")
        bits = op.integer("bit_width", 8)
        if not 2 <= bits <= 8 or self.bits not in (None, bits):
            raise op.error(f"has bit width {bits}; expected 2..8, the same in the whole network")
        self.bits = bits
        if source in self.constants:
            self.constant_fix[op.name] = (source, position)
            return
        node = self._node(op, source)
        if node.fix is not None or isinstance(node, Reshape):
            raise op.error("rounds a value that has been rounded already")
        if self.readers[source] != 1:
            raise op.error(f"rounds {source[:200]!r}, which others read unrounded")
        self.nodes[node.name] = dataclasses.replace(node, fix=position)
        self.values[op.name] = node.name

    def _quantized_constant(self, op: Op, name: str) -> tuple[str, Array, int]:
        if name not in self.constant_fix:
            raise op.error(f"reads {name[:200]!r}, expected constants with a fix position")
        source, position = self.constant_fix[name]
        values = self.constants[source]
        if not np.isfinite(values).all():
            raise op.error(f"has NaN or infinite values in {source[:200]!r}")
        scaled = np.ldexp(values.astype(np.float64), position)
        low, high = limits(self.bits or 8)
        if not (np.array_equal(scaled, np.floor(scaled)) and scaled.min() >= low and scaled.max() <= high):
            # XIR's fix operation rounds constants as it rounds activations
            values = np.ldexp(round_activations(values, position, self.bits or 8), -position).astype(np.float32)
        return source, values, position

    # -- nodes

    def _node(self, op: Op, source: str) -> Node:
        name = self.values.get(source)
        if name is None:
            raise op.error(f"reads {source[:200]!r}, expected the result of a layer")
        return self.nodes[name]

    def _inputs(self, op: Op, *sources: str) -> tuple[str, ...]:
        return tuple(self._as_vector(self._node(op, source)) for source in sources)

    def _as_vector(self, node: Node) -> str:
        """The node's name, or for an image of one pixel that is read as a vector that of a reshape behind it."""
        if node.name not in self.vectors:
            return node.name
        name = f"{node.name}_vector"
        if name not in self.nodes:
            self.nodes[name] = Reshape(name=name, inputs=(node.name,), shape=node.shape[-1:])
        return name

    def _put(self, op: Op, node: Node) -> None:
        """Make the operation's result the node's; Graph checks that its shape follows from its inputs."""
        if len(op.shape) < 2 or op.shape[0] != 1:
            raise op.error(f"has the shape {list(op.shape)}, expected a batch of 1")
        self.nodes[node.name] = node
        self.values[op.name] = node.name

    def data(self, op: Op) -> None:
        self._put(op, Input(name=op.name, inputs=(), shape=op.shape[1:], op_names=(op.name,)))

    def conv(self, op: Op) -> None:
        depthwise = op.type == "depthwise-conv2d"
        (source,) = self._inputs(op, op.argument("input"))
        weight_name, weight, weight_fix = self._quantized_constant(op, op.argument("weights"))
        kernel_w, kernel_h = op.integers("kernel", 2)
        if weight.ndim != 4 or weight.shape[1:3] != (kernel_h, kernel_w) or (depthwise and weight.shape[0] != 1):
            raise op.error(f"has weights of shape {list(weight.shape)} for a kernel {kernel_w} x {kernel_h}")
        if op.text("pad_mode", "FLOOR") != "FLOOR":
            raise op.error(f"has pad_mode {op.text('pad_mode', '')[:20]!r}, expected FLOOR")
        channels = weight.shape[3]
        if op.integer("group", channels if depthwise else 1) != (channels if depthwise else 1):
            raise op.error(f"has {op.integer('group')} groups; the DPU has full and depthwise convolutions only")
        stride_w, stride_h = op.integers("stride", 2)
        dilation_w, dilation_h = op.integers("dilation", 2, (1, 1))
        pad = op.integers("pad", 4, (0, 0, 0, 0))
        common: dict[str, Any] = {
            **self._bias(op, weight_name),
            "inputs": (source,),
            "shape": op.shape[1:],
            "weight_fix": weight_fix,
            "kernel": (kernel_h, kernel_w),
            "stride": (stride_h, stride_w),
            "dilation": (dilation_h, dilation_w),
            "padding": (pad[0], pad[1], pad[2], pad[3]),
        }
        if depthwise:
            self._put(op, Depthwise(weight=weight[0], **common))
        else:
            self._put(op, Conv(weight=weight, **parts_of(weight), **common))

    def scale(self, op: Op) -> None:
        """A batch-norm that was not folded: a weight and a bias per channel."""
        (source,) = self._inputs(op, op.argument("input"))
        weight_name, weight, weight_fix = self._quantized_constant(op, op.argument("scale"))
        shape = self.nodes[source].shape
        if len(shape) not in (1, 3) or weight.shape != shape[-1:]:
            raise op.error(
                f"has factors of shape {list(weight.shape)} on a tensor of shape {list(shape)}; expected an image or "
                "a vector with as many channels"
            )
        if len(shape) == 1:
            pixel = Reshape(name=f"{op.name}_pixel", inputs=(source,), shape=(1, 1, *shape))
            self.nodes[pixel.name] = pixel
            self.vectors.add(op.name)
            source, shape = pixel.name, pixel.shape
        common: dict[str, Any] = {"inputs": (source,), "shape": shape, "weight_fix": weight_fix}
        node = Depthwise(weight=weight.reshape(1, 1, -1), kernel=(1, 1), scale=True, **common, **self._bias(op, weight_name))
        self._put(op, node)

    def mean(self, op: Op) -> None:
        """The mean over height and width: an average pool, as a vector where the operation keeps no dimensions of 1."""
        (source,) = self._inputs(op, op.argument("input"))
        shape = self.nodes[source].shape
        if len(shape) != 3 or sorted(axis % 4 for axis in op.axes("axis")) != [1, 2]:
            raise op.error("takes the mean over other axes than height and width of an image, which the DPU does not do")
        node = Pool(
            name=op.name,
            inputs=(source,),
            shape=(1, 1, shape[2]),
            kind="avg",
            kernel=(shape[0], shape[1]),
            stride=(shape[0], shape[1]),
            is_global=True,
        )
        self._put(op, node)
        if len(op.shape) == 2:
            self.vectors.add(op.name)

    def matmul(self, op: Op) -> None:
        arguments = op.arguments("input")
        if len(arguments) != 2 or op.boolean("transpose_a", False) or not op.boolean("transpose_b", False):
            raise op.error("is not a linear layer: expected a vector times a transposed matrix of constants")
        (source,) = self._inputs(op, arguments[0])
        weight_name, weight, weight_fix = self._quantized_constant(op, arguments[1])
        common = self._bias(op, weight_name)
        self._put(op, Linear(inputs=(source,), shape=op.shape[1:], weight=weight, weight_fix=weight_fix, **common))

    def _bias(self, op: Op, weight_name: str) -> dict[str, Any]:
        out: dict[str, Any] = {"name": op.name, "has_bias": bool(op.arguments("bias")), "op_names": (weight_name, op.name)}
        if out["has_bias"]:
            bias_name, bias, bias_fix = self._quantized_constant(op, op.argument("bias"))
            if bias.shape != (op.shape[-1],):
                raise op.error(f"has a bias of shape {list(bias.shape)} for {op.shape[-1]} channels")
            out |= {"bias": bias, "bias_fix": bias_fix, "op_names": (weight_name, bias_name, op.name)}
        return out

    def activation(self, op: Op) -> None:
        kind = _ACTIVATIONS[op.type]
        if kind == "leaky_relu" and abs(op.real("alpha") - LEAKY_SLOPE) > 1e-6:
            raise op.error(f"has slope {op.real('alpha')}; the DPU computes leaky ReLU with 26/256 only")
        source = op.argument("input")
        node = self._node(op, source)
        fusable = isinstance(node, Conv | Depthwise | Linear | Add) and node.fix is None and self.readers[source] == 1
        if not fusable:
            common: dict[str, Any] = {"name": op.name, "inputs": self._inputs(op, source), "shape": op.shape[1:]}
            self._put(op, Activation(activation=kind, op_names=(op.name,), **common))
            return
        assert isinstance(node, Conv | Depthwise | Linear | Add)
        if node.activation != "none":
            raise op.error("follows another activation without rounding in between")
        del self.nodes[node.name]
        if node.name in self.vectors:
            self.vectors.add(op.name)
        fused = dataclasses.replace(node, name=op.name, activation=kind, op_names=(*node.op_names, op.name))
        self._put(op, fused)

    def pool(self, op: Op) -> None:
        average = op.type == "avgpool2d"
        (source,) = self._inputs(op, op.argument("input"))
        mode = op.text("pad_mode", "FLOOR")
        if mode not in ("FLOOR", "CEIL"):
            raise op.error(f"has pad_mode {mode[:20]!r}, expected FLOOR or CEIL")
        if average and not (op.boolean("count_include_pad", True) and op.boolean("count_include_invalid", True)):
            raise op.error("leaves its padding out of the average, which the DPU does not do")
        kernel_w, kernel_h = op.integers("kernel", 2)
        stride_w, stride_h = op.integers("stride", 2)
        pad = op.integers("pad", 4, (0, 0, 0, 0))
        node = Pool(
            name=op.name,
            inputs=(source,),
            shape=op.shape[1:],
            kind="avg" if average else "max",
            kernel=(kernel_h, kernel_w),
            stride=(stride_h, stride_w),
            padding=(pad[0], pad[1], pad[2], pad[3]),
            ceil_mode=mode == "CEIL",
            is_global=op.boolean("global", False),
            op_names=() if average else (op.name,),  # an average's coefficient and mul come later
        )
        self._put(op, node)

    def pad(self, op: Op) -> None:
        (source,) = self._inputs(op, op.argument("input"))
        self._put(op, read_pad(op, self.nodes[source]))
        self.pads.append(op.name)

    def mul(self, op: Op) -> None:
        a, b = self._pair(op)
        node = self._node(op, a)
        factor = self.constants.get(b)
        if not isinstance(node, Pool) or node.kind != "avg" or node.op_names or node.fix is not None:
            raise op.error("multiplies something other than an average pool, which this tool does not read yet")
        if self.readers[a] != 1 or factor is None or factor.shape != (1,) or not 0 < float(factor[0]) < 2**16:
            raise op.error("multiplies an average pool with something other than one positive constant")
        del self.nodes[node.name]
        if node.name in self.vectors:
            self.vectors.add(op.name)
        self._put(op, dataclasses.replace(node, name=op.name, factor=float(factor[0]), op_names=(a, b, op.name)))

    def _pair(self, op: Op) -> tuple[str, str]:
        given = op.arguments("input")
        if len(given) != 2:
            raise op.error(f"has {len(given)} inputs, expected two")
        return given[0], given[1]

    def add(self, op: Op) -> None:
        a, b = self._pair(op)
        self._put(op, Add(name=op.name, inputs=self._inputs(op, a, b), shape=op.shape[1:], op_names=(op.name,)))

    def concat(self, op: Op) -> None:
        axis = op.integer("axis")
        axis += len(op.shape) if axis < 0 else 0
        inputs = self._inputs(op, *op.arguments("input"))
        if not 1 <= axis < len(op.shape) or not inputs:
            raise op.error(f"joins {len(inputs)} tensors along axis {axis}; expected at least one and an axis behind the batch")
        self._put(op, Concat(name=op.name, inputs=inputs, shape=op.shape[1:], axis=axis - 1, op_names=(op.name,)))

    def reshape(self, op: Op) -> None:
        (source,) = self._inputs(op, op.argument("input"))
        self._put(op, Reshape(name=op.name, inputs=(source,), shape=op.shape[1:], op_names=(op.name,)))

    def stack(self, op: Op) -> None:
        """The shape of a reshape, which the reshape's own output tensor states too."""


_HANDLERS: dict[str, Callable[[_Reader, Op], None]] = {
    "add": _Reader.add,
    "avgpool2d": _Reader.pool,
    "concat": _Reader.concat,
    "const": _Reader.const,
    "conv2d": _Reader.conv,
    "data": _Reader.data,
    "depthwise-conv2d": _Reader.conv,
    "fix": _Reader.fix,
    "leaky-relu": _Reader.activation,
    "matmul": _Reader.matmul,
    "maxpool2d": _Reader.pool,
    "mul": _Reader.mul,
    "pad": _Reader.pad,
    "relu": _Reader.activation,
    "reduction_mean": _Reader.mean,
    "relu6": _Reader.activation,
    "reshape": _Reader.reshape,
    "scale": _Reader.scale,
    "stack": _Reader.stack,
}
