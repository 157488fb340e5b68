"""From a compiled xmodel to its code and tensors. Whatever the file holds, the outcome is a CompiledModel or an XmodelError."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from edgesearch.board_eval.xmodel._compiled import (
    CompiledLayer,
    CompiledModel,
    CompiledOperation,
    CompiledTensor,
    Register,
    RegisterKind,
)
from edgesearch.board_eval.xmodel._message import MAX_OPERATIONS, parse_message
from edgesearch.board_eval.xmodel._ops import MAX_FIX, Attributes, Op
from edgesearch.board_eval.xmodel._subgraphs import describe_subgraphs, subgraphs_of
from edgesearch.board_eval.xmodel._wire import attribute
from edgesearch.errors import XmodelError

__all__ = ["is_compiled", "read_compiled"]

_DPU_NAME = "DPUCZDX8G_ISA1_"


def read_compiled(path: str | Path) -> CompiledModel:
    """The program in a compiled xmodel for a DPUCZDX8G of instruction set 1, as a board's runtime loads it.

    Raises XmodelError when the file cannot be read, is not compiled, or is for another DPU.
    """
    path = Path(path)
    try:
        return _Reader(parse_message(path)).run()
    except OSError as error:
        raise XmodelError(f"{path} cannot be read: {error.strerror or error}") from error
    except XmodelError as error:
        raise XmodelError(f"{path} cannot be read as a compiled xmodel: {error}") from error


def is_compiled(path: str | Path) -> bool:
    """Whether a compiler wrote the xmodel: it says who does what. False for a quantizer's, and for what cannot be read."""
    try:
        return bool(parse_message(Path(path)).subg_root.subg_child)
    except (OSError, XmodelError):
        return False


class _Reader:
    """One walk over the operations of the DPU subgraph."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.subgraph = _dpu_subgraph(message)
        self.attributes = Attributes("its DPU subgraph", self.subgraph.subg_attr)
        self.registers: dict[int, Register] = {}
        self.producers = {op.op_name: op for op in message.op_node}
        self.readers: dict[str, list[Any]] = {}
        for op in message.op_node:
            for argument in op.args:
                for source in argument.arg_ops:
                    self.readers.setdefault(source, []).append(op)

    def run(self) -> CompiledModel:
        attributes = self.attributes
        dpu_name, fingerprint = _dpu(attributes)
        code = attributes.data("mc_code")
        if not code or len(code) % 4:
            raise attributes.error(f"has {len(code)} bytes of code, expected instructions of whole words of 4 bytes")
        if len(self.subgraph.subg_child) > MAX_OPERATIONS:
            raise attributes.error(f"has {len(self.subgraph.subg_child)} layers, expected at most {MAX_OPERATIONS}")
        layers = tuple(_layer(child) for child in self.subgraph.subg_child)
        self.registers = _registers(attributes)
        own = {name for layer in layers for name in layer.operations} | set(self.subgraph.op_name)
        operations = self._operations(own)
        inputs, outputs = self._inputs(operations), self._outputs(operations)
        return CompiledModel(
            name=self.message.graph_name,
            dpu_name=dpu_name,
            fingerprint=fingerprint,
            code=code,
            registers=MappingProxyType(self._used(*inputs, *outputs)),
            inputs=inputs,
            outputs=outputs,
            operations=operations,
            layers=layers,
            workload=attributes.integer("workload", 0),
            workload_on_arch=attributes.integer("workload_on_arch", 0),
            prefetch=attributes.boolean("if_prefetch", False),
            sources=MappingProxyType(Attributes("the file", self.message.graph_attr).table("files_md5sum", str)),
        )

    # -- operations

    def _operations(self, own: set[str]) -> tuple[CompiledOperation, ...]:
        out: dict[str, CompiledOperation] = {}
        for message in self.message.op_node:
            if message.op_name not in own:
                continue
            op = Op(message)
            if op.name in out:
                raise op.error("has no name of its own; every operation needs one")
            missing = [source for source in op.reads if source not in out and not (op.type == "upload" and source not in own)]
            if missing:
                raise op.error(f"reads {missing[0][:200]!r}, which does not come before it")
            out[op.name] = self._operation(op, message, out)
        lost = sorted(own - set(out))
        if lost:
            raise self.attributes.error(f"names the operation {lost[0][:200]!r}, which the file does not hold: it was cut off")
        return tuple(out.values())

    def _operation(self, op: Op, message: Any, before: Mapping[str, CompiledOperation]) -> CompiledOperation:
        # a download has no place of its own: it hands on what it reads
        given = before[op.argument("input")].tensor if op.type == "download" else None
        return CompiledOperation(
            name=op.name,
            kind=op.type,
            tensor=self._tensor(op, message.output_tensor, given),
            inputs=tuple(op.arguments("input")),
            weights=op.argument("weights") if op.arguments("weights") else "",
            bias=op.argument("bias") if op.arguments("bias") else "",
            attributes=MappingProxyType({key: _plain(attribute(v)) for key, v in message.op_attr.items() if key != "data"}),
        )

    def _tensor(self, op: Op, message: Any, given: CompiledTensor | None) -> CompiledTensor:
        attributes = Attributes(f"the tensor of {op.owner}", message.tensor_attr)
        shape = op.shape
        if op.type != "const-fix":
            if len(shape) < 2 or shape[0] != 1:
                raise op.error(f"has the shape {list(shape)}, expected a batch of 1")
            shape = shape[1:]
        fix = _fix(attributes)
        if given is not None:
            if given.shape != shape or given.fix != fix:
                raise op.error(f"makes {shape} at fix position {fix} of {given.shape} at {given.fix}, expected the same")
            return dataclasses.replace(given, name=message.tensor_name)
        stride = attributes.sizes("stride")
        batch = len(op.shape) - len(shape)
        if stride and len(stride) != len(op.shape):
            raise attributes.error(f"has {len(stride)} strides for the shape {list(op.shape)}")
        tensor = CompiledTensor(
            name=message.tensor_name,
            shape=shape,
            fix=fix,
            register=attributes.integer("reg_id"),
            address=attributes.integer("ddr_addr"),
            stride=stride[batch:],
            on_chip=attributes.integer("location", 1) == 0,
        )
        self._check_place(attributes, tensor)
        return tensor

    def _check_place(self, attributes: Attributes, tensor: CompiledTensor) -> None:
        register = self.registers.get(tensor.register)
        if register is None:
            names = ", ".join(f"REG_{number}" for number in self.registers)
            raise attributes.error(f"lies in register {tensor.register}, and the DPU subgraph has {names} only")
        if tensor.address < 0 or (not tensor.on_chip and tensor.end > register.size):
            reach = f"{tensor.address}..{tensor.end - 1}"
            raise attributes.error(f"takes bytes {reach} of REG_{register.id}, which has {register.size}")

    # -- inputs and outputs

    def _inputs(self, operations: tuple[CompiledOperation, ...]) -> tuple[CompiledTensor, ...]:
        """What applications write: the tensors of uploads, under the names of what is uploaded."""
        out = []
        for operation in operations:
            if operation.kind == "upload":
                source = self.producers.get(operation.inputs[0]) if len(operation.inputs) == 1 else None
                if source is None:
                    raise XmodelError(
                        f"the upload {operation.name[:200]!r} has no input to take, expected a data-fix operation"
                    )
                out.append(dataclasses.replace(operation.tensor, name=source.output_tensor.tensor_name))
        if not out:
            raise self.attributes.error("has no input: expected an operation of type upload")
        return tuple(out)

    def _outputs(self, operations: tuple[CompiledOperation, ...]) -> tuple[CompiledTensor, ...]:
        """What applications read: the tensors of downloads."""
        out = tuple(operation.tensor for operation in operations if operation.kind == "download")
        if not out:
            raise self.attributes.error("has no output: expected an operation of type download")
        return out

    def _used(self, *tensors: CompiledTensor) -> dict[int, Register]:
        """The registers; where the file tells constants and data only, those of `tensors` become INTERFACE."""
        if "reg_id_to_context_type_v2" in self.attributes:
            return self.registers
        shown = {tensor.register for tensor in tensors}
        return {
            number: dataclasses.replace(register, kind="INTERFACE") if number in shown else register
            for number, register in self.registers.items()
        }


def _dpu_subgraph(message: Any) -> Any:
    subgraphs = subgraphs_of(message)
    devices = [subgraph.device for subgraph in subgraphs]
    if devices.count("DPU") != 1:
        raise XmodelError(f"it has {describe_subgraphs(subgraphs)}; expected one for a DPU, with all layers of the network")
    return message.subg_root.subg_child[devices.index("DPU")]


def _dpu(attributes: Attributes) -> tuple[str, int]:
    """Name and fingerprint of the DPU, if it is one of instruction set 1."""
    name, fingerprint = attributes.text("dpu_name", ""), attributes.integer("dpu_fingerprint", 0)
    isa = fingerprint >> 48 & 0xFF
    if not name.startswith(_DPU_NAME) or (fingerprint and isa != 1):
        given = f"{name[:80]!r} with fingerprint 0x{fingerprint:x} (instruction set {isa})"
        raise attributes.error(f"is for a DPU {given}, expected a {_DPU_NAME.rstrip('_')} of instruction set 1")
    return name, fingerprint


def _registers(attributes: Attributes) -> dict[int, Register]:
    """The registers by number. Files of older compilers call all but CONST ones DATA; here they are WORKSPACE first."""
    kinds = attributes.table("reg_id_to_context_type_v2", str) or attributes.table("reg_id_to_context_type", str)
    if not kinds:
        raise attributes.error("has no registers (reg_id_to_context_type), which hold parameters and tensors")
    sizes, values = attributes.table("reg_id_to_size", int), attributes.table("reg_id_to_parameter_value", bytes)
    out = {}
    for name, kind in sorted(kinds.items()):
        if not re.fullmatch("REG_[0-7]", name):
            raise attributes.error(f"has a register {name[:50]!r}, expected REG_0 to REG_7")
        known: RegisterKind | None = next((k for k in get_args(RegisterKind) if k == kind), None)
        known = "WORKSPACE" if kind == "DATA" else known
        if known is None:
            raise attributes.error(f"has {name} of kind {kind[:50]!r}, expected CONST, WORKSPACE or INTERFACE")
        parameters = values.get(name, b"") if known == "CONST" else b""
        size = sizes.get(name, len(parameters))
        if (known == "CONST" and len(parameters) != size) or size < 1:
            held = f" and {len(parameters)} bytes of parameters" if known == "CONST" else ""
            raise attributes.error(f"has {name} ({known}) of size {size}{held}, expected equal numbers above 0")
        out[int(name[4:])] = Register(id=int(name[4:]), kind=known, size=size, parameters=parameters)
    return out


def _layer(message: Any) -> CompiledLayer:
    attributes = Attributes(f"the layer {message.subgraph_name[:200]!r}", message.subg_attr)
    if message.subg_child:
        raise attributes.error("holds layers of its own, expected operations")
    return CompiledLayer(
        name=message.subgraph_name,
        operations=tuple(message.op_name),
        has_code=not attributes.boolean("skip_code_gen", False),
        workload=attributes.integer("workload", 0),
        workload_on_arch=attributes.integer("workload_on_arch", 0),
    )


def _fix(attributes: Attributes) -> int:
    position = attributes.integer("fix_point")
    if abs(position) > MAX_FIX or attributes.integer("bit_width", 8) != 8 or not attributes.boolean("if_signed", True):
        bits = attributes.integer("bit_width", 8)
        raise attributes.error(
            f"has fix position {position} and {bits} bits, expected one within -{MAX_FIX}..{MAX_FIX}, 8 signed bits"
        )
    return position


def _plain(value: Any) -> object:
    """Lists as tuples, which nobody can change."""
    return tuple(value) if isinstance(value, list) else value
