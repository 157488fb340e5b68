"""What a network is, however it was made: the same for two students that are one network, as where a class ignores `width`."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from edgesearch.board_eval import Graph
from edgesearch.plugins import is_import_path
from edgesearch.spaces import Candidate, PooledNorm, digest, identity

__all__ = ["network_key", "structure"]

#: What a node is called, and what only a trained or quantized one has.
_NOT_STRUCTURE = ("name", "inputs", "op_names", "weight", "bias", "fix", "weight_fix", "bias_fix", "channel_fix")
#: Fields of nodes that came later, and what all nodes were before: keys that studies have stay.
_BEFORE = {"groups": 1, "picks": None}
#: Settings of a student that say how its network is made, and nothing once it is made.
_MAKES = {"architecture", "width", "stem", "head", "staged"}


def structure(model: nn.Module, graph: Graph) -> str:
    """SHA-256 of the operations of a lowered network with their shapes, and of the layers that it is trained with."""
    place = {node.name: number for number, node in enumerate(graph)}
    operations = [[type(node).__name__, [place[name] for name in node.inputs], _settings(node)] for node in graph]
    # A dropout is no operation of the DPU. Layers are compared without their names and places, which the operations have.
    leaves = (module for module in model.modules() if next(module.children(), None) is None)
    layers = sorted(repr(leaf) for leaf in leaves if not isinstance(leaf, nn.Identity))
    norms = [isinstance(module, PooledNorm) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    pooled = {"pooled_norms": norms} if any(norms) else {}  # operations do not say which of the batch-norms they are
    return digest({"operations": operations, "layers": layers} | pooled)


def _settings(node: Any) -> dict[str, Any]:
    found = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.name not in _NOT_STRUCTURE}
    return {name: value for name, value in found.items() if name not in _BEFORE or value != _BEFORE[name]}


def network_key(candidate: Candidate, structure: str, *, narrowest: bool = False) -> str:
    """The same for candidates that come to the same result since their students, made in different ways, are one network.

    A class of the user's own may train as its settings tell it, so that only its `width` may differ. The names of layers count
    where weights are read by them and where layers are found by them (intermediate distillation). A network that is pruned to
    its `narrowest` is the same whatever ratio is asked for.
    """
    canonical = candidate.canonical()
    student = canonical.student
    made = {"width"} if is_import_path(student.architecture) else set(_MAKES)
    if student.weights or canonical.distillation.kind == "intermediate":
        made = {"width"}
    content = identity(canonical)
    content["student"] = {name: value for name, value in content["student"].items() if name not in made}
    if narrowest:
        content["pruning"] = content["pruning"] | {"ratio": "narrowest"}
    return digest({"candidate": content, "structure": structure})
