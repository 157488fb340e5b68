"""What a compiled xmodel holds: code, registers, and every operation with the place of its tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from edgesearch.board_eval.graph import Shape

__all__ = ["CompiledLayer", "CompiledModel", "CompiledOperation", "CompiledTensor", "Register", "RegisterKind"]

#: CONST holds parameters, WORKSPACE what lies between layers, INTERFACE inputs or outputs.
RegisterKind: TypeAlias = Literal["CONST", "WORKSPACE", "INTERFACE"]


@dataclass(frozen=True, kw_only=True)
class Register:
    """A base address of the program and the memory behind it."""

    id: int
    kind: RegisterKind
    #: Bytes of memory behind it.
    size: int
    #: What a CONST register holds, `size` bytes.
    parameters: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True)
class CompiledTensor:
    """An int8 tensor in a register's memory, or on chip only.

    `shape` leaves out the batch: (H, W, C) or (C,); constants have their own, weights (out, kernel height, kernel width, in).
    """

    #: Its name in the file; for an input or output the one that applications see.
    name: str
    shape: Shape
    fix: int
    register: int
    #: Bytes from the register's base to its first element.
    address: int
    #: Bytes between neighbours along each axis of `shape`; empty: without gaps.
    stride: Shape = ()
    on_chip: bool = False

    @property
    def steps(self) -> Shape:
        """Bytes between neighbours along each axis of `shape`, whether the file says them or not."""
        steps = list(self.stride)
        if not steps:
            step = 1
            for size in reversed(self.shape):
                steps.insert(0, step)
                step *= size
        return tuple(steps)

    @property
    def end(self) -> int:
        """Bytes from the register's base to behind its last element."""
        return self.address + 1 + sum((size - 1) * step for size, step in zip(self.shape, self.steps, strict=True))


@dataclass(frozen=True, kw_only=True)
class CompiledOperation:
    """One operation of the DPU's part. `inputs`, `weights` and `bias` are names of operations; "" where there is none."""

    name: str
    #: Its type in XIR, as "conv2d-fix".
    kind: str
    tensor: CompiledTensor
    inputs: tuple[str, ...] = ()
    weights: str = ""
    bias: str = ""
    #: Attributes in the file, except `data`.
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """Operations that the compiler made code for together: a convolution, say, and the pooling behind it."""

    name: str
    operations: tuple[str, ...]
    #: False for what needs no instructions, as a concat whose parts were written side by side.
    has_code: bool = True
    #: Operations, and operations with channels and rows rounded up to what the DPU does at a time.
    workload: int = 0
    workload_on_arch: int = 0


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """A network compiled for one DPU, in one DPU subgraph."""

    name: str
    dpu_name: str
    #: 0: not in the file, no board checks it.
    fingerprint: int
    code: bytes = field(repr=False)
    registers: Mapping[int, Register]
    #: Tensors that applications write and read; shapes, addresses and strides as the code takes them.
    inputs: tuple[CompiledTensor, ...]
    outputs: tuple[CompiledTensor, ...]
    #: In the order of the file, which is one of execution. The first ones are uploads of inputs.
    operations: tuple[CompiledOperation, ...] = field(repr=False)
    layers: tuple[CompiledLayer, ...] = field(repr=False)
    workload: int = 0
    workload_on_arch: int = 0
    #: Whether the code loads the next layer's weights while a layer is computed.
    prefetch: bool = False
    #: Path of the uncompiled xmodel -> its MD5.
    sources: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Mapping[str, CompiledTensor]:
        """Operation -> its tensor, constants included."""
        return {operation.name: operation.tensor for operation in self.operations}
