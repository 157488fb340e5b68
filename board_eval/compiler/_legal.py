"""A quantized Graph rewritten until every node is one that an instruction computes, bit for bit the same network.

Each rewriting is small: `execute` of the new graph gives what it gave before. What cannot be rewritten is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from edgesearch.board_eval.compiler._kernels import before_flatten, dilated, flattened, image_shape, root
from edgesearch.board_eval.compiler._names import made_of
from edgesearch.board_eval.compiler._parameters import within_shifts
from edgesearch.board_eval.compiler._result import with_result_apart
from edgesearch.board_eval.graph import (
    Activation,
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
    average_factor,
    average_ratio,
    rounding_positions,
)
from edgesearch.board_eval.targets import Target
from edgesearch.errors import CompileError

__all__ = ["legal", "mean_factor"]

#: The largest factor of an average that the field of eight bits holds, read as a signed number.
_LARGEST_FACTOR = 127
#: Bits of the DPU's integers.
_BITS = 8


def legal(graph: Graph, target: Target, *, relu6: bool = False) -> Graph:
    """The same network in nodes that the DPU's instructions compute; raises CompileError naming a layer without such a form.

    `relu6`: whether instructions may clamp to 6 by themselves, which they can at fix position 4.
    """
    _check_numbers(graph)
    graph = _read(_rewritten(graph, _reshaped_once, target))
    if graph.quantized:
        graph = _rounded_once(graph)
    clipped = partial(_clipped, in_place=relu6)
    for rewrite in (
        dilated,
        before_flatten,
        flattened,
        _averages,
        _additions,
        clipped,
        _joined_reshaped,
        _copied_flattened,
        _shifted,
    ):
        graph = _rewritten(graph, rewrite, target)
    return with_result_apart(_read(graph))


def _reshaped_once(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Reshapes read what is no reshape itself; all else is an image or a vector."""
    if isinstance(node, Reshape):
        node = dataclasses.replace(node, inputs=(root(graph, node).name,))
    readers = graph.consumers[node.name]
    passed_on = isinstance(node, Reshape) and readers and all(isinstance(reader, Reshape) for reader in readers)
    if len(node.shape) not in (1, 3) and not passed_on:
        raise CompileError(
            f"layer {node.name!r} has the shape {node.shape}, the DPU has (height, width, channels), (channels,): reshape it"
        )
    return [node]


def _check_numbers(graph: Graph) -> None:
    """Either all weights and fix positions are there, of 8 bits, or no weights at all."""
    weighted = [node for node in graph if isinstance(node, Conv | Depthwise | Linear)]
    without = next((node for node in weighted if node.weight is None), None)
    if graph.bits != _BITS:
        raise CompileError(
            f"network {graph.name!r} has integers of {graph.bits} bits, the DPU's have {_BITS}: quantize it to them"
        )
    if without is not None and any(node.weight is not None for node in weighted):
        raise CompileError(f"layer {without.name!r} has no weights, other layers have: load them, or leave out all to time it")
    if weighted and without is None and not graph.quantized:
        raise CompileError(
            f"network {graph.name!r} has weights and is not quantized: quantize it, or leave out its weights to time its code"
        )


def _read(graph: Graph) -> Graph:
    """The nodes that the output is made of, and the input."""
    needed = {graph.output.name}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed or isinstance(node, Input):
            kept.append(node)
            needed.update(node.inputs)
    return Graph(graph.name, tuple(reversed(kept)), graph.bits)


def _rewritten(graph: Graph, rewrite: Callable[[Graph, Node, Target], list[Node]], target: Target) -> Graph:
    nodes: list[Node] = []
    for node in graph:
        made = rewrite(graph, node, target)
        assert made[-1].name == node.name  # readers find its value under its name
        nodes += made
    return made_of(graph, nodes)


def _rounded_once(graph: Graph) -> Graph:
    """Every node with one fix position of its own: a value that concats take at their positions is made once for each."""
    positions = rounding_positions(graph)
    nodes: list[Node] = []

    def name_of(name: str, fix: int) -> str:
        own = graph.fix_of(name)
        known = positions[name]
        return name if own is not None or fix == known[0] else f"{name}/at{fix}"

    for node in graph:
        if node is graph.output or isinstance(node, Reshape):
            fixes = positions[node.name][:1] if node is graph.output else positions[node.name]
        else:
            fixes = positions[node.name] or (0,)
        for fix in fixes:
            inputs = tuple(name_of(source, fix) for source in node.inputs)
            made = dataclasses.replace(node, name=name_of(node.name, fix), inputs=inputs)
            nodes.append(made if isinstance(node, Reshape) else dataclasses.replace(made, fix=fix))
    return _equal_positions(made_of(graph, nodes))


def _equal_positions(graph: Graph) -> Graph:
    """Concats whose parts all have the concat's own fix position: others pass through a copy that rounds them."""
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node, Concat):
            inputs = []
            for i, source in enumerate(node.inputs):
                if graph.fix_of(source) == node.fix:
                    inputs.append(source)
                    continue
                name = f"{node.name}/part{i}"
                shape = graph.by_name[source].shape
                nodes.append(Activation(name=name, inputs=(source,), shape=shape, activation="none", fix=node.fix))
                inputs.append(name)
            node = dataclasses.replace(node, inputs=tuple(inputs))
        nodes.append(node)
    return made_of(graph, nodes)


# -- reshapes


def _joined_reshaped(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Parts of a concat that are another image's values under a new shape pass through a copy: parts lie at strides."""
    if not isinstance(node, Concat):
        return [node]
    copies: list[Node] = []
    inputs = []
    for i, name in enumerate(node.inputs):
        source = graph.by_name[name]
        if isinstance(source, Reshape) and image_shape(root(graph, source).shape) != image_shape(source.shape):
            name = f"{node.name}/shaped{i}"
            copies.append(
                Activation(
                    name=name, inputs=(source.name,), shape=source.shape, activation="none", fix=graph.fix_of(source.name)
                )
            )
        inputs.append(name)
    return [*copies, dataclasses.replace(node, inputs=tuple(inputs))] if copies else [node]


def _copied_flattened(graph: Graph, node: Node, target: Target) -> list[Node]:
    """A reshape of what lies inside a concat reads a copy: the rows of a part are not next to each other."""
    if not isinstance(node, Reshape):
        return [node]
    source = graph.by_name[node.inputs[0]]
    if isinstance(source, Reshape | Input) or not _is_joined(graph, source.name):
        return [node]
    copy = Activation(name=f"{node.name}/copy", inputs=(source.name,), shape=source.shape, activation="none", fix=source.fix)
    return [copy, dataclasses.replace(node, inputs=(copy.name,))]


def _is_joined(graph: Graph, name: str) -> bool:
    """Whether a concat reads the value, perhaps by another name."""
    readers = graph.consumers[name]
    return any(
        isinstance(reader, Concat) or (isinstance(reader, Reshape) and _is_joined(graph, reader.name)) for reader in readers
    )


def _shifted(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Weights and biases at positions that the shifts of their layer reach."""
    if isinstance(node, Conv | Depthwise | Linear) and node.fix is not None:
        return [within_shifts(node, graph.fix_of(node.inputs[0]) or 0, node.fix)]
    return [node]


# -- averages


def mean_factor(node: Pool) -> tuple[int, int]:
    """(m, s) of an average of sum * m / 2**s, m odd. Raises CompileError when the factor is no such number.

    A pool that is not quantized yet gets the factor that quantization will give it.
    """
    ratio = average_ratio(node.kernel, average_factor(node.kernel) if node.fix is None else node.factor)
    shift = ratio.denominator.bit_length() - 1
    if ratio.denominator != 1 << shift or ratio.numerator < 1:
        raise CompileError(
            f"layer {node.name!r} averages with the factor {node.factor}, which is not k * m / 2**s for {node.kernel} pixels "
            "as the DPU computes it: quantize the network with this program, or with pytorch_nndct"
        )
    return ratio.numerator, shift


def _averages(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Averages whose factor is too large for its field, as a convolution of the image beside itself: m = m1 + m2."""
    if not isinstance(node, Pool) or node.kind != "avg":
        return [node]
    factor, shift = mean_factor(node)
    if factor <= _LARGEST_FACTOR:
        return [node]
    source = graph.by_name[node.inputs[0]]
    channels = source.shape[2]
    words = node.kernel[0] * node.kernel[1] * -(-2 * channels // target.input_parallel)
    fits = max(node.kernel) <= target.limits.conv_kernel and words <= target.bank_words and not _ends_outside(graph, node)
    if not fits or max(node.stride) > target.limits.conv_stride or factor > 2 * _LARGEST_FACTOR:
        raise CompileError(
            f"layer {node.name!r} averages {node.kernel[0]} x {node.kernel[1]} pixels, which the DPU does as a sum times "
            f"{factor} / 2**{shift}; factors above {_LARGEST_FACTOR} have no encoding, and as a convolution it takes "
            f"{words} words of a weight bank of {target.bank_words} and a kernel of up to {target.limits.conv_kernel}: "
            "pool in two steps"
        )
    both = Concat(
        name=f"{node.name}/twice", inputs=(source.name, source.name), shape=(*source.shape[:2], 2 * channels), fix=source.fix
    )
    weight = np.zeros((channels, *node.kernel, 2 * channels), np.float32)
    one = np.arange(channels)
    weight[one, :, :, one] = np.ldexp(factor // 2, -shift)
    weight[one, :, :, channels + one] = np.ldexp(factor - factor // 2, -shift)
    conv = Conv(
        name=node.name,
        inputs=(both.name,),
        shape=node.shape,
        fix=node.fix,
        weight=weight,
        weight_fix=shift,
        has_bias=False,
        kernel=node.kernel,
        stride=node.stride,
        padding=node.padding,
    )
    return [both, conv]


def _ends_outside(graph: Graph, node: Pool) -> bool:
    """Whether windows reach beyond the padding (a pool's size rounded up), or the padding beyond what a convolution takes."""
    source = graph.by_name[node.inputs[0]]
    left, right, top, bottom = node.padding
    for size, out, kernel, stride, before, after in (
        (source.shape[0], node.shape[0], node.kernel[0], node.stride[0], top, bottom),
        (source.shape[1], node.shape[1], node.kernel[1], node.stride[1], left, right),
    ):
        if max(before, after) >= kernel or (out - 1) * stride + kernel > size + before + after:
            return True
    return False


# -- additions and activations


def _additions(graph: Graph, node: Node, target: Target) -> list[Node]:
    """Sums of operands far apart, with the coarser one made finer first.

    The elementwise engine keeps two fraction bits of the finer operand. That is exact while the result has at most one bit more
    than the coarser operand: rounding down twice is rounding down once. Where it has more, the coarser operand is shifted left
    beforehand; what saturates there would saturate in the result too, since the other operand is small beside it. (A leaky ReLU
    would bring it back into reach.)
    """
    if not isinstance(node, Add) or node.fix is None or node.activation == "leaky_relu":  # no DPU has that behind an addition
        return [node]
    fixes = [fix for source in node.inputs if (fix := graph.fix_of(source)) is not None]
    if len(fixes) < 2:
        return [node]
    apart, finer = abs(fixes[0] - fixes[1]), node.fix - min(fixes[0], fixes[1])
    if apart <= 2 or finer <= 1:
        return [node]
    shift = min(finer - 1, apart - 2)
    coarse = 0 if fixes[0] < fixes[1] else 1
    source = node.inputs[coarse]
    fix = fixes[coarse] + shift
    copy = Activation(name=f"{node.name}/finer", inputs=(source,), shape=node.shape, activation="none", fix=fix)
    inputs = tuple(copy.name if i == coarse else name for i, name in enumerate(node.inputs))
    return [copy, dataclasses.replace(node, inputs=inputs)]


def _clipped(graph: Graph, node: Node, target: Target, *, in_place: bool) -> list[Node]:
    """ReLU6 where an instruction does not clamp and 6 is in reach: two steps that saturate, x + (127 - six) and back."""
    if not isinstance(node, Conv | Depthwise | Linear | Add | Activation) or node.activation != "relu6" or node.fix is None:
        return [node]
    largest = 2 ** (graph.bits - 1) - 1
    six = 6 * 2.0**node.fix
    if six >= largest:  # saturation comes first
        return [dataclasses.replace(node, activation="relu")]
    if in_place and node.fix == 4 and isinstance(node, Conv | Depthwise | Linear):
        return [node]
    six = int(np.floor(six + 0.5))
    return list(_saturated(node, six, largest))


def _saturated(node: Node, six: int, largest: int) -> Iterator[Node]:
    """The node with ReLU, then clamped to `six` by depthwise convolutions with weight 1."""
    assert isinstance(node, Conv | Depthwise | Linear | Add | Activation)
    assert node.fix is not None
    shape = node.shape if len(node.shape) == 3 else (1, 1, *node.shape)
    names = [f"{node.name}/relu", f"{node.name}/up", f"{node.name}/down"]
    yield dataclasses.replace(node, name=names[0], activation="relu")
    source = names[0]
    if shape != node.shape:
        yield Reshape(name=f"{source}/pixel", inputs=(source,), shape=shape)
        source = f"{source}/pixel"
    for name, offset in ((names[1], largest - six), (names[2], six - largest)):
        last = name == names[2] and shape == node.shape
        yield Depthwise(
            name=node.name if last else name,
            inputs=(source,),
            shape=shape,
            fix=node.fix,
            weight=_full((1, 1, shape[2]), 1.0),
            bias=_full((shape[2],), float(np.ldexp(offset, -node.fix))),
            weight_fix=0,
            bias_fix=node.fix,
            kernel=(1, 1),
        )
        source = name
    if shape != node.shape:
        yield Reshape(name=node.name, inputs=(names[2],), shape=node.shape)


def _full(shape: tuple[int, ...], value: float) -> Array:
    return np.full(shape, value, np.float32)
