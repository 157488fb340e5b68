"""From a torch model to a Graph: batch-norm folded, activations fused, flatten merged into the linear layer behind it.

The model is traced with torch.fx in evaluation mode; every operation without a DPU form is collected, so that one error names
them all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesearch.board_eval.graph import Graph, Input, Node
from edgesearch.board_eval.lowering._batch_norm import fold_batch_norm
from edgesearch.board_eval.lowering._layers import Layers
from edgesearch.board_eval.lowering._reasons import LEFT_OUT_PADDING, clip_reason, reason_for
from edgesearch.board_eval.lowering._values import BlockedByEarlierProblem, Source, Unsupported, argument, name_of, reads_shape
from edgesearch.board_eval.lowering._windows import pair
from edgesearch.board_eval.targets import DEFAULT_TARGET, Target
from edgesearch.errors import GraphError, LoweringError, LoweringProblem

__all__ = ["Lowered", "Source", "fold_batch_norm", "lower", "lower_with_sources"]


@dataclass(frozen=True)
class Lowered:
    """A Graph and, per weighted node, the torch modules behind it."""

    graph: Graph
    sources: dict[str, Source]


def lower(
    model: nn.Module, input_shape: tuple[int, int, int], *, target: Target | None = DEFAULT_TARGET, name: str | None = None
) -> Graph:
    """The DPU's view of `model` for one image of `input_shape` = (channels, height, width).

    Raises LoweringError naming every operation that `target` does not have, that this tool does not have, or whose sizes are
    beyond the limits of `target`; None looks at no limits, for analysis. Raises GraphError for a `model` that is
    none, and an `input_shape` that is no image's. The model is not changed.
    """
    return lower_with_sources(model, input_shape, target=target, name=name).graph


def lower_with_sources(
    model: nn.Module, input_shape: tuple[int, int, int], *, target: Target | None = DEFAULT_TARGET, name: str | None = None
) -> Lowered:
    """Like `lower`, and says which torch modules each weighted node came from."""
    _check_input(model, input_shape)
    name = name or type(model).__name__
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _Lowering(model, _trace(model, name), name, input_shape).run(target)
    finally:
        for module, mode in training.items():
            module.training = mode


def _check_input(model: object, shape: object) -> None:
    if not isinstance(model, nn.Module):
        raise GraphError(f"the network is of type {type(model).__name__}, expected a torch.nn.Module")
    sizes = shape if isinstance(shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise GraphError(f"the input's shape is {shape!r}, expected (channels, height, width), such as (3, 32, 32)")


def _trace(model: nn.Module, name: str) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # fx raises whatever the model's own code raises on a symbolic value
        problem = LoweringProblem(name, "forward", f"cannot be traced by torch.fx: {error}")
        raise LoweringError(name, [problem]) from error


class _Lowering(Layers):
    """One pass over a traced model."""

    def run(self, target: Target | None) -> Lowered:
        self.target = target or DEFAULT_TARGET
        self.output = ""
        self.modules = dict(self.traced.named_modules(remove_duplicate=False))
        problems: dict[fx.Node, list[str]] = {}
        for node in self.traced.graph.nodes:
            try:
                self._visit(node)
            except Unsupported as error:
                problems.setdefault(node, []).append(str(error))
            except BlockedByEarlierProblem:
                continue
        graph = self._graph()
        for violation in target.violations(graph) if graph is not None and target is not None else ():
            problems.setdefault(self.origins[violation.layer], []).append(str(violation))
        if problems or graph is None:
            raise LoweringError(self.name, self._in_order(problems))
        return Lowered(graph, {name: s for name, s in self.sources.items() if name in graph.by_name})

    def _graph(self) -> Graph | None:
        """What was lowered: what the output depends on, or all there is when the output is not reached."""
        if not any(isinstance(node, Input) for node in self.nodes.values()):
            return None
        return Graph(self.name, self._alive() if self.output else tuple(self.nodes.values()))

    def _in_order(self, problems: Mapping[fx.Node, list[str]]) -> list[LoweringProblem]:
        found = sorted(problems, key=self.order.__getitem__)
        return [LoweringProblem(name_of(node), self._kind(node), reason) for node in found for reason in problems[node]]

    def _alive(self) -> tuple[Node, ...]:
        """The nodes the output depends on, the output last."""
        needed: set[str] = set()
        stack = [self.output]
        while stack:
            current = stack.pop()
            if current not in needed:
                needed.add(current)
                stack.extend(self.nodes[current].inputs)
        ordered = [n for n in self.nodes.values() if (n.name in needed or isinstance(n, Input)) and n.name != self.output]
        return tuple(self.with_op_names(node) for node in (*ordered, self.nodes[self.output]))

    def _kind(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__
        return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def _visit(self, node: fx.Node) -> None:
        _put_in_place(node)
        if node.op == "placeholder":
            self._visit_placeholder(node)
        elif node.op == "call_module":
            module = self.modules[str(node.target)]
            for kind, handler in _MODULES.items():
                if isinstance(module, kind):
                    handler(self, node, module)
                    return
            raise Unsupported(self._reason(node, module))
        elif node.op in ("call_function", "call_method"):
            if self._visit_shape(node):
                return
            function = _FUNCTIONS.get(node.target)
            if function is None:
                raise Unsupported(self._reason(node, None))
            function(self, node)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise Unsupported(
                    "the model returns more than one tensor; the DPU can, this tool cannot; return the logits alone"
                )
            self.output = self.in_torch_order(self.value(node.args[0]))
        elif node.op == "get_attr":
            raise Unsupported("a constant or parameter used outside a layer; make it the weight or bias of one")

    def _reason(self, node: fx.Node, module: nn.Module | None) -> str:
        source = node.args[0] if node.args else None
        known = self.values.get(source) if isinstance(source, fx.Node) else None
        if node.target is operator.getitem and known is None:
            raise BlockedByEarlierProblem  # a part of what was refused as a whole
        return reason_for(node, module, self.target, None if known is None else self.shape(known))

    def _visit_placeholder(self, node: fx.Node) -> None:
        if any(isinstance(existing, Input) for existing in self.nodes.values()):
            if node.args:  # an argument with a default, never given
                return
            raise Unsupported("a second input; the DPU is given one image")
        self.put(node, Input(name=node.name, inputs=(), shape=self.input_shape))

    def _visit_shape(self, node: fx.Node) -> bool:
        """Whether the operation reads a shape; if so its users are given the number itself, the batch as -1."""
        value: Any
        if reads_shape(node):
            shape = self.shape(self.value(node.args[0]))
            sizes = (-1, shape[-1], *shape[:-1])  # (H, W, C) -> (N, C, H, W), (C,) -> (N, C)
            value = sizes if len(node.args) == 1 or node.args[1] == "shape" else sizes[_integer(node.args[1])]
            value = len(sizes) if node.target == "dim" else value
        elif node.target is operator.getitem and isinstance(node.args[0], tuple):
            index = node.args[1]
            value = node.args[0][index if isinstance(index, slice) else _integer(index)]
        elif node.target in _ARITHMETIC and all(isinstance(operand, int) and operand > 0 for operand in node.args):
            value = node.target(*node.args)  # of sizes; the batch's, -1, is none that can be computed with
        else:
            return False
        for user in list(node.users):
            user.args = fx.map_arg(user.args, lambda operand: value if operand is node else operand)
            user.kwargs = fx.map_arg(user.kwargs, lambda operand: value if operand is node else operand)
        return True


#: Arguments of torch's functions and layers that are tensors or shapes, by their places, where they were given by name.
_PLACES = (("input",), ("other", "dim", "size", "shape"))


def _put_in_place(node: fx.Node) -> None:
    """Give the arguments that the lowering reads by their places there, as in most calls."""
    arguments, named = list(node.args), dict(node.kwargs)
    for place, names in enumerate(_PLACES):
        if len(arguments) == place and (found := [name for name in names if name in named]):
            arguments.append(named.pop(found[0]))
    node.args, node.kwargs = tuple(arguments), named


_ARITHMETIC = frozenset({operator.add, operator.sub, operator.mul, operator.floordiv})


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        raise Unsupported(f"a size indexed with {value!r}")
    return value


def _max_pool_function(low: Layers, at: fx.Node) -> None:
    kernel, stride = argument(at, 1, "kernel_size", None), argument(at, 2, "stride", None)
    if pair(argument(at, 4, "dilation", 1)) != (1, 1) or argument(at, 6, "return_indices", False):
        raise Unsupported("a dilated pooling, or one that returns indices")
    low.pool(at, "max", kernel, stride, argument(at, 3, "padding", 0), ceil=bool(argument(at, 5, "ceil_mode", False)))


def _average_pool_function(low: Layers, at: fx.Node) -> None:
    kernel, stride = argument(at, 1, "kernel_size", None), argument(at, 2, "stride", None)
    padding, ceil = argument(at, 3, "padding", 0), bool(argument(at, 4, "ceil_mode", False))
    counted, divisor = argument(at, 5, "count_include_pad", True), argument(at, 6, "divisor_override", None)
    _average_pool(low, at, kernel, stride, padding, ceil, counted, divisor)


def _average_pool_module(low: Layers, at: fx.Node, m: nn.AvgPool2d) -> None:
    _average_pool(low, at, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override)


def _average_pool(
    low: Layers, at: fx.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, counted: bool, divisor: int | None
) -> None:
    if pair(padding) != (0, 0) and not counted:
        raise Unsupported(LEFT_OUT_PADDING)
    if divisor is not None:
        raise Unsupported("average pooling with a divisor of its own")
    low.pool(at, "avg", kernel, stride, padding, ceil=ceil)


def _max_pool_module(low: Layers, at: fx.Node, module: nn.MaxPool2d) -> None:
    if pair(module.dilation) != (1, 1) or module.return_indices:
        raise Unsupported("a dilated pooling, or one that returns indices")
    low.pool(at, "max", module.kernel_size, module.stride, module.padding, ceil=module.ceil_mode)


def _hardtanh_module(low: Layers, at: fx.Node, module: nn.Hardtanh) -> None:
    if (module.min_val, module.max_val) != (0.0, 6.0):
        raise Unsupported(clip_reason("hardtanh", module.min_val, module.max_val))
    low.activation(at, "relu6", inplace=module.inplace, keeps_clip=not isinstance(module, nn.ReLU6))


def _flatten_module(low: Layers, at: fx.Node, module: nn.Flatten) -> None:
    _flatten(low, at, module.start_dim, module.end_dim)


def _flatten(low: Layers, at: fx.Node, start: Any, end: Any) -> None:
    rank = len(low.shape(low.value(at.args[0]))) + 1
    if start != 1 or end not in (-1, rank - 1):
        raise Unsupported("a flatten other than of everything but the batch")
    low.flatten(at)


def _flatten_function(low: Layers, at: fx.Node) -> None:
    _flatten(low, at, argument(at, 1, "start_dim", 0), argument(at, 2, "end_dim", -1))


def _view(low: Layers, at: fx.Node) -> None:
    sizes = at.args[1:]
    low.view(at, sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes)


def _mean(low: Layers, at: fx.Node) -> None:
    low.mean(at, argument(at, 1, "dim", None), argument(at, 2, "keepdim", False))


def _concat(low: Layers, at: fx.Node) -> None:
    low.concat(at, argument(at, 0, "tensors", None), argument(at, 1, "dim", 0))


def _relu_function(low: Layers, at: fx.Node) -> None:
    low.activation(at, "relu", inplace=bool(argument(at, 1, "inplace", False)))


def _relu6_function(low: Layers, at: fx.Node) -> None:
    low.activation(at, "relu6", inplace=bool(argument(at, 1, "inplace", False)), keeps_clip=True)


def _leaky_function(low: Layers, at: fx.Node) -> None:
    low.leaky(at, argument(at, 1, "negative_slope", 0.01), inplace=bool(argument(at, 2, "inplace", False)))


def _hardtanh_function(low: Layers, at: fx.Node) -> None:
    bounds = (argument(at, 1, "min_val", -1.0), argument(at, 2, "max_val", 1.0))
    _clip(low, at, "hardtanh", *bounds, inplace=bool(argument(at, 3, "inplace", False)))


def _clamp(*, inplace: bool) -> Callable[[Layers, fx.Node], None]:
    return lambda low, at: _clip(low, at, "clamp", argument(at, 1, "min", None), argument(at, 2, "max", None), inplace=inplace)


def _clip(low: Layers, at: fx.Node, name: str, least: Any, most: Any, *, inplace: bool) -> None:
    """Values below `least` and above `most` become these: ReLU6 or ReLU where the bounds are theirs."""
    if least != 0 or most not in (6, None):
        raise Unsupported(clip_reason(name, least, most))
    low.activation(at, "relu" if most is None else "relu6", inplace=inplace, keeps_clip=most is not None)


_MODULES: Mapping[type[nn.Module], Callable[[Layers, fx.Node, Any], None]] = {
    nn.Conv2d: Layers.conv,
    nn.Linear: Layers.linear,
    nn.BatchNorm2d: Layers.batch_norm,
    nn.BatchNorm1d: Layers.batch_norm,
    nn.ReLU: lambda low, at, m: low.activation(at, "relu", inplace=m.inplace),
    nn.Hardtanh: _hardtanh_module,  # ReLU6 is one
    nn.LeakyReLU: lambda low, at, m: low.leaky(at, m.negative_slope, inplace=m.inplace),
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _average_pool_module,
    nn.AdaptiveAvgPool2d: lambda low, at, m: low.adaptive_average(at, m.output_size),
    nn.Flatten: _flatten_module,
    nn.Dropout: lambda low, at, _: low.identity(at),
    nn.Dropout2d: lambda low, at, _: low.identity(at),
    nn.Identity: lambda low, at, _: low.identity(at),
}

_FUNCTIONS: Mapping[Any, Callable[[Layers, fx.Node], None]] = {
    operator.add: Layers.add,
    operator.iadd: lambda low, at: low.add(at, inplace=True),
    torch.add: Layers.add,
    "add": Layers.add,
    "add_": lambda low, at: low.add(at, inplace=True),
    torch.cat: _concat,
    torch.concat: _concat,
    torch.flatten: _flatten_function,
    "flatten": _flatten_function,
    torch.reshape: _view,
    "reshape": _view,
    "view": _view,
    "contiguous": Layers.identity,
    "mean": _mean,
    torch.mean: _mean,
    F.relu: _relu_function,
    torch.relu: lambda low, at: low.activation(at, "relu"),
    torch.relu_: lambda low, at: low.activation(at, "relu", inplace=True),
    "relu": lambda low, at: low.activation(at, "relu"),
    "relu_": lambda low, at: low.activation(at, "relu", inplace=True),
    F.relu6: _relu6_function,
    F.leaky_relu: _leaky_function,
    F.hardtanh: _hardtanh_function,
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), _clamp(inplace=False)),
    **dict.fromkeys((torch.clamp_, torch.clip_, "clamp_", "clip_"), _clamp(inplace=True)),
    F.dropout: Layers.identity,
    F.max_pool2d: _max_pool_function,
    torch.max_pool2d: _max_pool_function,
    F.avg_pool2d: _average_pool_function,
    F.adaptive_avg_pool2d: lambda low, at: low.adaptive_average(at, argument(at, 1, "output_size", None)),
}
