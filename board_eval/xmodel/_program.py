"""What a compiler makes of a quantized network: all that a compiled xmodel is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgesearch.board_eval.graph import Graph, Shape
from edgesearch.board_eval.targets import Dpu

__all__ = [
    "INPUT",
    "OUTPUT",
    "PARAMETERS",
    "WORKSPACE",
    "CompiledProgram",
    "ConstantPlace",
    "ProgramLayer",
    "TensorPlace",
]

#: The registers of every compiled file, by number.
PARAMETERS, WORKSPACE, INPUT, OUTPUT = range(4)


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where a node's value lies: in a register's memory, or on chip only."""

    register: int = WORKSPACE
    #: Bytes from the register's base to the first element.
    address: int = 0
    #: Bytes between neighbours along each axis of the node's shape; empty: without gaps.
    stride: Shape = ()
    on_chip: bool = False


@dataclass(frozen=True, kw_only=True)
class ConstantPlace:
    """Addresses of a layer's weights and bias in the parameters, in bytes.

    Weights lie there as int8 (out, kernel height, kernel width, in), depthwise ones as (kernel height, kernel width, channels),
    linear ones as (out, in). `bias` None: the layer has none; one that has none may still lie there as zeros.
    """

    weight: int
    bias: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProgramLayer:
    """Nodes that code was made for together, in execution order: a convolution, say, and the pooling fused behind it."""

    nodes: tuple[str, ...]
    #: False for what needs no instructions, as a concat whose parts are written side by side.
    has_code: bool = True


@dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """A network, its code, and where its tensors and constants lie.

    `graph` is quantized and says what the code computes: operations that the compiler split, merged or grew (a dilated kernel
    with zeros between its taps) stand in it as they were compiled, and every node is rounded to one fix position.
    """

    graph: Graph
    target: Dpu
    #: Instructions, END the last.
    code: bytes = field(repr=False)
    #: What lies in register 0: int8 weights and biases; a bias with a negative shift is shifted already.
    parameters: bytes = field(repr=False)
    #: Sizes of registers 1 to 3; the file has them rounded up to 16 bytes.
    workspace_bytes: int
    input_bytes: int
    output_bytes: int
    #: In the order of the code. Every node but the input is in one; concats and reshapes that need no code may be left out.
    layers: tuple[ProgramLayer, ...]
    #: Node -> place. A reshape that is left out of `layers` lies where what it reads lies.
    tensors: Mapping[str, TensorPlace]
    #: Node -> place, of convolutions and linear layers.
    constants: Mapping[str, ConstantPlace]
    #: Convolutions whose kernel columns the code takes as input channels (the first one, where that fits).
    augmented: frozenset[str] = frozenset()
    #: Whether the code loads the next layer's weights while a layer is computed.
    prefetch: bool = False
    #: Path of the uncompiled xmodel -> its MD5, where there is one.
    sources: Mapping[str, str] = field(default_factory=dict)
