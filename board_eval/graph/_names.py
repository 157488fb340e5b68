"""Names of xmodel operations, in pytorch_nndct's scheme.

A layer of module path `features.0` in a network `Net` has the constants `Net__features_0_weight` and `Net__features_0_bias`;
its operations are named after the module's class path. The fix operation behind OP is `OP_fix`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgesearch.board_eval.graph._graph import (
    Activation,
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
)

#: What is appended to an operation's name to name the operations made for it: its fix, a reshape's shape.
SHAPE_SUFFIXES = ("_shape_attr_1_", "_shape_attr_0_", "_shape_i0")
_SUFFIXES = ("", "_fix", *SHAPE_SUFFIXES)


@dataclass(frozen=True)
class FixNames:
    """The fix operations of one node: of its weights and bias (empty where it has none) and of its output."""

    output: str
    weight: str = ""
    bias: str = ""


def sanitize(name: str) -> str:
    """The name with everything but letters and digits turned into an underscore, as nndct does."""
    return re.sub("[^0-9A-Za-z]", "_", name)


def op_count(node: Node) -> int:
    """How many operations a node is written as, its constants counted, its fix operations not."""
    fused = int(getattr(node, "activation", "none") != "none")
    match node:
        case Conv() | Depthwise() | Linear():
            return 2 + node.has_bias + fused  # weight, bias, the layer, its activation
        case Pool(kind="avg"):
            return 3  # pool, coefficient, mul
        case Add():
            return 1 + fused
        case _:
            return 1


def derived_op_names(model: str, node: Node) -> tuple[str, ...]:
    """Operation names for a node that carries none: the constants first, then the operations in order."""
    base = f"{sanitize(model)}__{sanitize(node.name)}"
    fused = getattr(node, "activation", "none")
    tail = () if fused == "none" else (f"{base}_{fused}",)
    match node:
        case Conv() | Depthwise() | Linear():
            return (f"{base}_weight", *((f"{base}_bias",) if node.has_bias else ()), base, *tail)
        case Pool(kind="avg"):
            return (f"{base}_i0", f"{base}_i1", base)
        case Add():
            return (base, *tail)
        case Input() | Pool() | Concat() | Activation() | Reshape() | _:
            return (base,)


def op_names(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Node name -> the names of its operations, unique in the graph: its own where it has them, else derived ones."""
    out: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()

    def reserve(node: Node, names: tuple[str, ...]) -> bool:
        every = {name + suffix for name in names for suffix in _SUFFIXES}
        if len(set(names)) < len(names) or not taken.isdisjoint(every):
            return False
        taken.update(every)
        out[node.name] = names
        return True

    waiting = [node for node in graph if len(node.op_names) != op_count(node) or not reserve(node, node.op_names)]
    for node in waiting:
        wanted = derived_op_names(graph.name, node)
        names, i = wanted, 1
        while not reserve(node, names):
            names, i = tuple(f"{name}_{i}" for name in wanted), i + 1
    return {node.name: out[node.name] for node in graph}


def fix_names(graph: Graph) -> dict[str, FixNames]:
    """Node name -> the names of its fix operations."""
    out = {}
    for node, names in zip(graph, op_names(graph).values(), strict=True):
        if isinstance(node, Conv | Depthwise | Linear):
            bias = f"{names[1]}_fix" if node.has_bias else ""
            out[node.name] = FixNames(f"{names[-1]}_fix", f"{names[0]}_fix", bias)
        else:
            out[node.name] = FixNames(f"{names[-1]}_fix")
    return out
