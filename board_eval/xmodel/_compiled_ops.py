"""The operations of a compiled xmodel, written from the nodes of a Graph with the attributes that AMD's compiler gives them.

XIR checks types, arguments and attributes when it reads a file, and ends the process where they are wrong. Only what occurs in
AMD's files is written, with two exceptions that XIR's definitions of operations name: ReLU6 and leaky ReLU as the activation of
an operation, and an addition of one tensor, which stands for an activation of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from edgesearch.board_eval.graph import (
    Activation,
    Add,
    Concat,
    Conv,
    Depthwise,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    average_factor,
    op_names,
    rounding_positions,
)
from edgesearch.board_eval.isa import ADDRESS_REACH
from edgesearch.board_eval.xmodel._attributes import set_attributes
from edgesearch.board_eval.xmodel._compiled import CompiledTensor
from edgesearch.board_eval.xmodel._compiled_graph import NONLINEAR
from edgesearch.board_eval.xmodel._compiled_names import compiled_dims, operation_names
from edgesearch.board_eval.xmodel._program import INPUT, OUTPUT, PARAMETERS, WORKSPACE, CompiledProgram, TensorPlace
from edgesearch.board_eval.xmodel._workload import workloads
from edgesearch.errors import XmodelError

__all__ = ["Operations", "register_sizes"]

#: data_type and tensor_bit_width of int8 tensors and of what fix2float makes of them.
_INT8, _FLOAT = (2, 8), (4, 32)
#: Sizes of registers are multiples of this in AMD's files.
_ALIGNMENT = 16
#: Attributes of convolutions that stand for "none" in files of this DPU.
_NO_SIGMOID = {"hsigmoid_in": -128, "shift_hsigmoid": -128, "shift_hswish": -128}


def register_sizes(program: CompiledProgram) -> dict[int, int]:
    """Register -> bytes, as the file has them."""
    given = {WORKSPACE: program.workspace_bytes, INPUT: program.input_bytes, OUTPUT: program.output_bytes}
    sizes = {number: max(1, -(-size // _ALIGNMENT)) * _ALIGNMENT for number, size in given.items()}
    return {PARAMETERS: len(program.parameters), **sizes}


class Operations:
    """All operations of a program, in execution order, in the repeated field `messages`.

    `of_node`: node -> the names of the operations written for it, its constants counted. `values`: node -> the operation
    whose result its readers take. `moves`: reshapes that no node stands for.
    """

    def __init__(self, program: CompiledProgram, messages: Any) -> None:
        self.program = program
        self.graph = program.graph
        self.messages = messages
        self.names = op_names(self.graph)
        self.operations = operation_names(self.graph)
        self.positions = rounding_positions(self.graph)
        self.sizes = register_sizes(program)
        self.taken: set[str] = set()
        self.of_node: dict[str, list[str]] = {node.name: [] for node in self.graph}
        self.values: dict[str, str] = {}
        self.moves: list[str] = []
        self.workloads: dict[str, tuple[int, int]] = {}
        self.data = self.upload = self.download = self.result = ""

    def write(self) -> None:
        """Write them; raises XmodelError for a program that lacks a place or has one outside its register."""
        for node in self.graph:
            if isinstance(node, Input):
                self._input(node)
            else:
                self._node(node)
        self._output()

    # -- messages

    def _op(self, name: str, kind: str, dims: Sequence[int], tensor: str, /, **arguments: Sequence[str]) -> Any:
        if name in self.taken:
            raise XmodelError(f"two operations would be named {name!r}; rename a node of {self.graph.name!r}")
        self.taken.add(name)
        op = self.messages.add(op_name=name, op_type=kind)
        for argument, sources in arguments.items():
            op.args.add(arg_name=argument, arg_ops=list(sources))
        op.output_tensor.tensor_name = tensor
        op.output_tensor.tensor_dim.extend(dims)
        op.output_tensor.data_type, op.output_tensor.tensor_bit_width = _INT8
        return op

    def _fixed(self, op: Any, fix: int) -> None:
        set_attributes(op.output_tensor.tensor_attr, fix_point=fix, bit_width=8, if_signed=True, round_mode="DPU_ROUND")

    def _placed(self, op: Any, node: Node, place: TensorPlace) -> None:
        """Write where the tensor of `node` lies; the message may have other dimensions of 1 than the node."""
        tensor = self._checked(node.name, node, place)
        self._fixed(op, self.fix(node))
        set_attributes(
            op.output_tensor.tensor_attr, reg_id=place.register, ddr_addr=place.address, location=0 if place.on_chip else 1
        )
        if not place.on_chip:
            dims, steps = tuple(op.output_tensor.tensor_dim), tensor.steps
            whole = node.shape[0] * steps[0]
            set_attributes(op.output_tensor.tensor_attr, stride=[whole] * (len(dims) - len(steps)) + list(steps))

    def _checked(self, name: str, node: Node, place: TensorPlace) -> CompiledTensor:
        if place.stride and len(place.stride) != len(node.shape):
            raise XmodelError(f"node {name!r} of shape {node.shape} has the strides {place.stride}, expected one an axis")
        tensor = CompiledTensor(
            name=name, shape=node.shape, fix=0, register=place.register, address=place.address, stride=place.stride
        )
        size = self.sizes.get(place.register, 0)
        if place.address < 0 or (not place.on_chip and tensor.end > min(size, ADDRESS_REACH)):
            reach = f"{place.address}..{tensor.end - 1} of register {place.register}"
            raise XmodelError(f"node {name!r} takes bytes {reach}, which has {size}")
        return tensor

    # -- what a node has

    def fix(self, node: Node) -> int:
        """The fix position its value is rounded to."""
        positions = self.positions[node.name]
        if len(positions) != 1:
            raise XmodelError(
                f"node {node.name!r} is rounded to the fix positions {positions}; make a node of its own for each"
            )
        return positions[0]

    def place(self, node: Node) -> TensorPlace:
        """Where its value lies; a reshape without a place lies where its input does, which must have no gaps."""
        given = self.program.tensors.get(node.name)
        if given is not None:
            return given
        if not isinstance(node, Reshape):
            raise XmodelError(f"node {node.name!r} has no place; give one in `tensors`")
        source = self.graph.by_name[node.inputs[0]]
        place = self.place(source)
        tensor = self._checked(source.name, source, place)
        if tensor.end - tensor.address != math.prod(source.shape):
            raise XmodelError(
                f"reshape {node.name!r} reads a tensor with gaps, strides {tensor.steps}; give it a place of its own"
            )
        return dataclasses.replace(place, stride=())

    def _tensor_name(self, node: Node) -> str:
        name = f"{self.names[node.name][-1]}_fix"
        return f"{name}_download_0" if node is self.graph.output and len(node.shape) > 1 else name

    # -- ends of the network

    def _input(self, node: Input) -> None:
        dims = (1, *node.shape)
        self._check_interface(node, INPUT)
        self.data = self.names[node.name][0]
        op = self._op(self.data, "data-fix", dims, f"{self.data}_fix")
        set_attributes(op.op_attr, shape=dims, data_type="XINT8", device="USER")
        self._fixed(op, self.fix(node))
        self.upload = self.operations[node.name]
        op = self._op(self.upload, "upload", dims, f"{self.data}_fix_upload_0", input=[self.data])
        set_attributes(op.op_attr, device="DPU")
        self._placed(op, node, self.place(node))
        self.values[node.name] = self.upload
        if len(node.shape) == 1:
            name = f"{self.upload}_reshaped"
            self._reshape(name, compiled_dims(node), f"{name}_fix", self.upload, node)
            self.values[node.name] = name
            self.moves.append(name)

    def _output(self) -> None:
        node = self.graph.output
        if isinstance(node, Input):
            raise XmodelError(f"network {self.graph.name!r} has no layers")
        self._check_interface(node, OUTPUT)
        name, value = f"{self.names[node.name][-1]}_fix", self.values[node.name]
        dims = (1, *node.shape)
        if len(node.shape) == 1:
            # what follows a reshape that is no operation of its own stands for it, as in AMD's files
            reshape = isinstance(node, Reshape) and not self.of_node[node.name]
            reshaped = self.names[node.name][0] if reshape else f"{value}_reshaped"
            self._reshape(reshaped, dims, f"{name}_download_0", value, node)
            self.moves.append(reshaped)
            value = reshaped
        self.download = f"{value}_download_0"
        op = self._op(self.download, "download", dims, name, input=[value])
        set_attributes(op.op_attr, device="DPU")
        self._fixed(op, self.fix(node))
        self.result = f"{name}_"
        op = self._op(self.result, "fix2float", dims, self.result, input=[self.download])
        set_attributes(op.op_attr, fix_point=self.fix(node), bit_width=8, if_signed=True, round_mode="DPU_ROUND", device="CPU")
        op.output_tensor.data_type, op.output_tensor.tensor_bit_width = _FLOAT

    def _check_interface(self, node: Node, register: int) -> None:
        """Applications see inputs and outputs without gaps, in a register of their own."""
        place = self.place(node)
        tensor = self._checked(node.name, node, place)
        packed = CompiledTensor(name="", shape=node.shape, fix=0, register=0, address=0).steps
        if place.register != register or place.on_chip or tensor.steps != packed:
            where = "on chip" if place.on_chip else f"in register {place.register} with strides {tensor.steps}"
            raise XmodelError(f"node {node.name!r} lies {where}, expected in register {register} with strides {packed}")

    # -- nodes

    def _node(self, node: Node) -> None:
        if self.graph.bits != 8:
            raise XmodelError(f"network {self.graph.name!r} has {self.graph.bits} bits, expected 8: the DPU has no other")
        sources = [self.values[source] for source in node.inputs]
        match node:
            case Conv() | Depthwise() | Linear():
                self._layer(node, sources[0])
            case Pool():
                self._pool(node, sources[0])
            case Add() | Activation():
                op = self._made(node, "eltwise-fix", input=sources)
                set_attributes(op.op_attr, type="ADD", nonlinear=NONLINEAR[node.activation])
            case Concat():
                op = self._made(node, "concat-fix", input=sources)
                set_attributes(op.op_attr, axis=len(compiled_dims(node)) - len(node.shape) + node.axis)
            case Reshape():
                if compiled_dims(node) == compiled_dims(self.graph.by_name[node.inputs[0]]):
                    self.values[node.name] = sources[0]  # only dimensions of 1 come or go, and all tensors here have four
                    return
                name = self.operations[node.name]
                self._reshape(name, compiled_dims(node), self._tensor_name(node), sources[0], node)
                self.of_node[node.name].append(name)
                self.values[node.name] = name

    def _made(self, node: Node, kind: str, /, **arguments: Sequence[str]) -> Any:
        """The operation of a node, with device, workload and place."""
        name = self.operations[node.name]
        op = self._op(name, kind, compiled_dims(node), self._tensor_name(node), **arguments)
        set_attributes(op.op_attr, device="DPU")
        source = self.graph.by_name[node.inputs[0]].shape
        found = workloads(node, source, self.program.target, augmented=node.name in self.program.augmented)
        if found is not None:
            self.workloads[name] = found
            set_attributes(op.op_attr, workload=found[0], workload_on_arch=found[1])
        self._placed(op, node, self.place(node))
        self.of_node[node.name].append(name)
        self.values[node.name] = name
        return op

    def _reshape(self, name: str, dims: Sequence[int], tensor: str, source: str, node: Node) -> None:
        op = self._op(name, "reshape-fix", dims, tensor, input=[source])
        set_attributes(op.op_attr, shape=dims, device="DPU")
        self._placed(op, node, self.place(node))

    def _layer(self, node: Conv | Depthwise | Linear, source: str) -> None:
        names = self.names[node.name]
        channels_in = self.graph.by_name[node.inputs[0]].shape[-1]
        places = self.program.constants.get(node.name)
        if places is None or (node.has_bias and places.bias is None) or node.weight_fix is None:
            raise XmodelError(f"layer {node.name!r} has no place for its weights or bias; give both in `constants`")
        kernel = (1, 1) if isinstance(node, Linear) else node.kernel
        shape = (1, *kernel, channels_in) if isinstance(node, Depthwise) else (node.shape[-1], *kernel, channels_in)
        self._const(node, names[0], shape, places.weight, node.weight_fix)
        bias = [names[1] if node.has_bias else f"{self.operations[node.name]}_bias"] if places.bias is not None else []
        if places.bias is not None:
            self._const(node, bias[0], node.shape[-1:], places.bias, node.bias_fix or 0)
        kind = "depthwise-conv2d-fix" if isinstance(node, Depthwise) else "conv2d-fix"
        op = self._made(node, kind, input=[source], weights=[names[0]], bias=bias)
        set_attributes(
            op.op_attr,
            kernel=kernel[::-1],
            stride=(1, 1) if isinstance(node, Linear) else node.stride[::-1],
            dilation=(1, 1) if isinstance(node, Linear) else node.dilation[::-1],
            pad=(0, 0, 0, 0) if isinstance(node, Linear) else _trimmed(node, self.graph.by_name[node.inputs[0]].shape),
            pad_mode="FLOOR",
            nonlinear=NONLINEAR[node.activation],
            group=channels_in if isinstance(node, Depthwise) else 1,
            **_NO_SIGMOID,
        )
        if not isinstance(node, Linear):  # AMD's compiler leaves these out where it made a convolution of a matrix
            set_attributes(op.op_attr, bias_term=bool(bias), in_dim=channels_in, out_dim=node.shape[-1])
        if node.name in self.program.augmented:
            set_attributes(op.op_attr, channel_augmentation=1)

    def _const(self, node: Node, name: str, shape: Sequence[int], address: int, fix: int) -> None:
        tensor = CompiledTensor(name=name, shape=tuple(shape), fix=fix, register=PARAMETERS, address=address)
        if address < 0 or tensor.end > self.sizes[PARAMETERS]:
            reach = f"bytes {address}..{tensor.end - 1} of the parameters, which have {self.sizes[PARAMETERS]}"
            raise XmodelError(f"layer {node.name!r} has a constant at {reach}")
        op = self._op(name, "const-fix", shape, f"{name}_fix")
        set_attributes(op.op_attr, shape=shape, data_type="XINT8", data=b"", device="DPU")
        self._fixed(op, fix)
        set_attributes(op.output_tensor.tensor_attr, reg_id=PARAMETERS, ddr_addr=address, location=1)
        self.of_node[node.name].append(name)

    def _pool(self, node: Pool, source: str) -> None:
        if node.kind == "max" and node.kernel == (1, 1) and node.stride != (1, 1) and not any(node.padding):
            op = self._made(node, "downsample-fix", input=[source], size=[])
            scale = [float(step) for step in node.stride[::-1]]
            set_attributes(op.op_attr, mode="NEAREST", align_corners=False, half_pixel_centers=False, scale=scale)
            return
        if node.kind == "avg" and abs(node.factor - average_factor(node.kernel)) > 1e-6:
            taken = average_factor(node.kernel)
            raise XmodelError(f"pool {node.name!r} multiplies its mean by {node.factor}, and the DPU by {taken}")
        op = self._made(node, "pool-fix", input=[source])
        set_attributes(
            op.op_attr,
            type="MAX" if node.kind == "max" else "AVG",
            kernel=node.kernel[::-1],
            stride=node.stride[::-1],
            pad=_trimmed(node, self.graph.by_name[node.inputs[0]].shape),
        )


def _trimmed(node: Conv | Depthwise | Pool, source: Sequence[int]) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) with as much right and bottom as windows reach: then sizes round down, never up."""
    left, _, top, _ = node.padding
    dilation = (1, 1) if isinstance(node, Pool) else node.dilation
    bottom, right = (
        max(0, (size - 1) * stride + (kernel - 1) * step + 1 - length - before)
        for size, stride, kernel, step, length, before in zip(
            node.shape[:2], node.stride, node.kernel, dilation, source[:2], (top, left), strict=True
        )
    )
    return left, right, top, bottom
