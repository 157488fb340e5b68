"""Who does what of a compiled xmodel: its subgraphs, each with its device and its operations.

A board's runtime runs one DPU subgraph fast. Several, or operations of the CPU between them, cost a way through memory and
the CPU each: this tells which operations they are, also of files that `read_compiled` refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesearch.board_eval.xmodel._message import MAX_OPERATIONS, parse_message
from edgesearch.board_eval.xmodel._ops import Attributes
from edgesearch.errors import XmodelError

__all__ = ["Subgraph", "cpu_operations", "describe_subgraphs", "read_subgraphs", "subgraphs_of"]

#: Operations that the compiler itself puts where the user or the CPU hands over a tensor; they are no layers of a network.
_HANDED_OVER = frozenset({"const", "const-fix", "data", "data-fix", "download", "fix", "fix2float", "float2fix", "upload"})
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Subgraph:
    """What one device does. `operations` are names and types in XIR, those of `children` included."""

    name: str
    #: "USER" (inputs), "DPU" or "CPU"; "" for a layer inside one of these.
    device: str
    operations: tuple[tuple[str, str], ...]
    children: tuple[Subgraph, ...] = ()
    dpu_name: str = ""
    #: Of its DPU; 0: not in the file.
    fingerprint: int = 0
    #: Operations, and operations as the DPU rounds them up.
    workload: int = 0
    workload_on_arch: int = 0
    code_bytes: int = 0
    parameter_bytes: int = 0

    @property
    def layers(self) -> tuple[tuple[str, str], ...]:
        """Its operations that are layers of the network: nothing that only hands a tensor over."""
        return tuple(operation for operation in self.operations if operation[1] not in _HANDED_OVER)


def read_subgraphs(path: str | Path) -> tuple[Subgraph, ...]:
    """The devices' subgraphs of a compiled xmodel, in the file's order, which is one of execution.

    Raises XmodelError when the file cannot be read or is not compiled.
    """
    path = Path(path)
    try:
        return subgraphs_of(parse_message(path))
    except OSError as error:
        raise XmodelError(f"{path} cannot be read: {error.strerror or error}") from error
    except XmodelError as error:
        raise XmodelError(f"{path} cannot be read as a compiled xmodel: {error}") from error


def subgraphs_of(message: Any) -> tuple[Subgraph, ...]:
    """The subgraphs of a parsed file; see `read_subgraphs`."""
    if not message.subg_root.subg_child:
        raise XmodelError("it is not compiled: it is what the quantizer wrote, with operations and no code")
    types = {op.op_name: op.op_type for op in message.op_node}
    left = [MAX_OPERATIONS]
    return tuple(_subgraph(child, types, left) for child in message.subg_root.subg_child)


def cpu_operations(subgraphs: Iterable[Subgraph]) -> tuple[tuple[str, str], ...]:
    """Name and type of every layer that the CPU does, or that no device was given."""
    return tuple(layer for subgraph in subgraphs if subgraph.device not in ("DPU", "USER") for layer in subgraph.layers)


def describe_subgraphs(subgraphs: Sequence[Subgraph]) -> str:
    """One sentence without an end: how many subgraphs are whose, and the layers that are the CPU's."""
    devices = [subgraph.device or "no device" for subgraph in subgraphs]
    counts = ", ".join(f"{devices.count(device)} {device}" for device in dict.fromkeys(devices))
    layers = cpu_operations(subgraphs)
    shown = ", ".join(f"{name[:200]!r} ({kind[:50]})" for name, kind in layers[:_SHOWN])
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    return f"{len(subgraphs)} subgraphs ({counts})" + (f"; the CPU does {shown}{more}" if layers else "")


def _subgraph(message: Any, types: dict[str, str], left: list[int]) -> Subgraph:
    left[0] -= 1 + len(message.op_name)
    if left[0] < 0:
        raise XmodelError(f"its subgraphs name more than {MAX_OPERATIONS} operations, expected each of them once")
    children = tuple(_subgraph(child, types, left) for child in message.subg_child)
    attributes = Attributes(f"the subgraph {message.subgraph_name[:200]!r}", message.subg_attr)
    own = [(name, types.get(name, "")) for name in message.op_name]
    return Subgraph(
        name=message.subgraph_name,
        device=attributes.text("device", "")[:50],
        operations=(*own, *(operation for child in children for operation in child.operations)),
        children=children,
        dpu_name=attributes.text("dpu_name", "")[:80],
        fingerprint=attributes.integer("dpu_fingerprint", 0),
        workload=attributes.integer("workload", 0),
        workload_on_arch=attributes.integer("workload_on_arch", 0),
        code_bytes=len(attributes.data("mc_code")) if "mc_code" in attributes else 0,
        parameter_bytes=sum(map(len, attributes.table("reg_id_to_parameter_value", bytes).values())),
    )
