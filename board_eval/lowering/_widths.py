"""Other widths for the same network, by shapes alone: what a pruned network costs before anything is pruned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from edgesearch.board_eval.graph import (
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
    check_is_graph,
    without_weights,
)
from edgesearch.board_eval.targets import DEFAULT_TARGET
from edgesearch.errors import GraphError

#: Halvings of the interval of keep fractions: 2**-12 is one channel of the most that a layer of the largest DPU can have.
_STEPS = 12


def with_widths(graph: Graph, widths: Mapping[str, int]) -> Graph:
    """The same network, without weights, with other output channels of the named convolutions and linear layers.

    Everything behind them follows. Raises GraphError when a name is not such a layer, a width is below 1, or an addition is
    left with unequal operands.
    """
    for name, width in widths.items():
        if not isinstance(graph.by_name.get(name), Conv | Linear):
            raise GraphError(f"{name!r} is not a convolution or linear layer of {graph.name!r}; it has no width of its own")
        if width < 1:
            raise GraphError(f"layer {name!r} cannot have {width} output channels; give at least 1")
    shapes: dict[str, tuple[int, ...]] = {}
    nodes: list[Node] = []
    for node in without_weights(graph).nodes:
        shape, inputs = node.shape, [shapes[name] for name in node.inputs]
        if isinstance(node, Conv | Linear):
            shape = (*shape[:-1], widths.get(node.name, shape[-1]))
        elif isinstance(node, Reshape):
            shape = (math.prod(inputs[0]),) if len(shape) == 1 else (*shape[:-1], inputs[0][-1])
        elif isinstance(node, Depthwise | Pool | Add | Activation):
            shape = (*shape[:-1], inputs[0][-1])
        elif isinstance(node, Concat):
            at = node.axis
            shape = (*inputs[0][:at], sum(i[at] for i in inputs), *inputs[0][at + 1 :])
        shapes[node.name] = shape
        nodes.append(dataclasses.replace(node, shape=shape))
    return Graph(graph.name, tuple(nodes), graph.bits)


def channel_groups(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Layers that must keep equal widths, group by group, those that can be pruned only.

    Operands of an addition share their channels. Left out are the layers tied to the network's result, to its image, or to a
    concat of channels through an addition, those that make or read channels in groups, and those of
    which parts are read.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.get(name, name) != name:
            name = leader[name]
        return name

    frozen: set[str] = set()
    makers: dict[str, tuple[str, ...]] = {}  # node -> the layers whose channels lie side by side in it; empty: the image's
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            makers[node.name] = (node.name,)
            if isinstance(node, Conv) and (node.groups > 1 or node.picks is not None):
                frozen.update((node.name, *makers[node.inputs[0]]))
        elif isinstance(node, Input):
            makers[node.name] = ()
        elif isinstance(node, Concat):
            parts = [makers[name] for name in node.inputs]
            makers[node.name] = tuple(name for part in parts for name in part)
            if node.axis != len(node.shape) - 1 or not all(parts):
                frozen.update(makers[node.name])
        elif isinstance(node, Add):
            first, second = (makers[name] for name in node.inputs)
            if len(first) == len(second) == 1:
                leader[find(first[0])] = find(second[0])
            else:
                frozen.update((*first, *second))
            makers[node.name] = second
        else:
            makers[node.name] = makers[node.inputs[0]]
    frozen.update(makers[graph.output.name])
    groups: dict[str, list[str]] = {}
    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            groups.setdefault(find(node.name), []).append(node.name)
    return tuple(tuple(group) for group in groups.values() if not frozen.intersection(group))


def pruned_estimate(
    graph: Graph,
    ratio: float,
    *,
    granularity: int = DEFAULT_TARGET.channel_parallel,
    cost: Callable[[Graph], float] = lambda graph: graph.macs,
) -> Graph:
    """`graph` with `ratio` of its MACs removed, evenly over its channel groups, in multiples of `granularity` channels.

    A stand-in for a network that is not pruned yet: real pruning chooses other widths at the same MACs. Convolutions only are
    thinned. With another `cost`, as a network's seconds on a board, the ratio is of that. Raises GraphError for a ratio outside
    0..0.95 or a granularity below 1.
    """
    check_is_graph(graph)
    if not 0 <= ratio <= 0.95:
        raise GraphError(f"a pruning ratio of {ratio} is outside 0..0.95")
    if granularity < 1:
        raise GraphError(f"a channel granularity of {granularity} is below 1")
    groups = [group for group in channel_groups(graph) if all(isinstance(graph.by_name[name], Conv) for name in group)]
    target = (1 - ratio) * cost(graph)

    def at(keep: float) -> Graph:
        widths = {}
        for group in groups:
            for name in group:
                full = graph.by_name[name].shape[-1]
                widths[name] = min(full, max(granularity, round(keep * full / granularity) * granularity))
        return with_widths(graph, widths)

    if ratio == 0:
        return without_weights(graph)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if cost(at(middle)) > target:
            high = middle
        else:
            low = middle
    return min((at(low), at(high)), key=lambda candidate: abs(cost(candidate) - target))
