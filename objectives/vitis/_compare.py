"""Two quantized forms of one network side by side: positions, integers and answers that differ.

Layers are paired by what they compute and what they read, not by their names: two tools name and cut the same network in
different ways. Reshapes are looked through.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Add, Concat, Conv, Depthwise, Graph, Linear, Node, Pool, Reshape, execute

__all__ = ["Difference", "compare_graphs", "pair_nodes"]

#: Names of fix positions that differ, as many as are kept.
_SHOWN = 8


@dataclass(frozen=True)
class Difference:
    """How two quantized networks differ.

    layers: nodes that both have. unpaired: nodes that one alone has, in both together. positions, integers: fix positions of
    values, weights and biases, and stored weights and biases, in paired nodes; `..._differ`: those that are not equal. where:
    some of the positions that differ, with both. images: how many were shown to both; answers_differ: on how many of them some
    logit was not equal.
    """

    layers: int
    unpaired: int
    positions: int
    positions_differ: int
    integers: int
    integers_differ: int
    images: int
    answers_differ: int
    where: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"where": list(self.where)}


def compare_graphs(one: Graph, other: Graph, images: npt.NDArray[np.float32]) -> Difference:
    """Compare two quantized Graphs of one network, on `images` (N, H, W, C), normalised."""
    pairs = pair_nodes(one, other)
    positions = integers = integers_differ = 0
    where: list[str] = []
    for a, b in pairs:
        for what, fix, other_fix in _positions(a, b):
            positions += 1
            if fix != other_fix:
                where.append(f"{a.name} {what}: {fix} and {other_fix}")
        for stored, others in _integers(a, b):
            integers += stored.size
            integers_differ += int((stored != others).sum())
    first, second = (execute(graph, images).reshape(len(images), -1) for graph in (one, other))
    answers = (first != second).any(axis=1) if first.shape == second.shape else np.ones(len(images), bool)
    return Difference(
        layers=len(pairs),
        unpaired=sum(_counts(graph) - len(pairs) for graph in (one, other)),
        positions=positions,
        positions_differ=len(where),
        integers=integers,
        integers_differ=integers_differ,
        images=len(images),
        answers_differ=int(answers.sum()),
        where=tuple(where[:_SHOWN]),
    )


def pair_nodes(one: Graph, other: Graph) -> list[tuple[Node, Node]]:
    """Nodes of both that do the same to the same, in the order of `one`; reshapes are left out."""
    known: dict[Any, int] = {}
    found: list[Mapping[int, list[Node]]] = [_by_work(graph, known) for graph in (one, other)]
    order = {node.name: place for place, node in enumerate(one)}
    pairs = [pair for work, nodes in found[0].items() for pair in zip(nodes, found[1].get(work, ()), strict=False)]
    return sorted(pairs, key=lambda pair: order[pair[0].name])


def _by_work(graph: Graph, known: dict[Any, int]) -> dict[int, list[Node]]:
    """Nodes by the number of what they compute; equal numbers stand for equal work on equal inputs."""
    numbers: dict[str, int] = {}
    found: dict[int, list[Node]] = defaultdict(list)
    for node in graph:
        inputs = [numbers[name] for name in node.inputs]
        if isinstance(node, Reshape):
            numbers[node.name] = inputs[0]
            continue
        work = (*_work(node), *(sorted(inputs) if isinstance(node, Add) else inputs))
        numbers[node.name] = number = known.setdefault(work, len(known))
        found[number].append(node)
    return found


def _work(node: Node) -> tuple[Any, ...]:
    activation = getattr(node, "activation", "")
    # a ReLU6 that one of them took for a ReLU is the same layer
    common: tuple[Any, ...] = (type(node).__name__, node.shape, "relu" if activation == "relu6" else activation)
    if isinstance(node, Conv | Depthwise):
        return (*common, node.kernel, node.stride, node.padding, node.dilation)
    if isinstance(node, Pool):
        return (*common, node.kind, node.kernel, node.stride, node.padding)
    return (*common, node.axis) if isinstance(node, Concat) else common


def _positions(a: Node, b: Node) -> Iterator[tuple[str, int | None, int | None]]:
    """What has a position in one of them at least."""
    for what, name in (("value", "fix"), ("weights", "weight_fix"), ("bias", "bias_fix")):
        first, second = getattr(a, name, None), getattr(b, name, None)
        if first is not None or second is not None:
            yield what, first, second


def _integers(a: Node, b: Node) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Stored integers, of weights and of biases; a bias that one does not have is zeros."""
    if not isinstance(a, Conv | Depthwise | Linear) or not isinstance(b, Conv | Depthwise | Linear):
        return
    for name in ("weight", "bias"):
        first, second = _stored(a, name), _stored(b, name)
        if first is not None or second is not None:
            present = first if first is not None else second
            assert present is not None
            zeros = np.zeros_like(present)
            yield (zeros if first is None else first), (zeros if second is None else second)


def _stored(node: Conv | Depthwise | Linear, name: str) -> npt.NDArray[np.float64] | None:
    values, fix = getattr(node, name), getattr(node, f"{name}_fix")
    return None if values is None or fix is None else np.rint(np.ldexp(values.astype(np.float64), fix))


def _counts(graph: Graph) -> int:
    return sum(not isinstance(node, Reshape) for node in graph)
