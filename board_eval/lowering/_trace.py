"""From a torch model to a Graph: batch-norm folded, activations fused, flatten merged into the linear layer behind it.

The model is traced with torch.fx in evaluation mode; every operation without a DPU form is collected, so that one error names
them all.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.graph import Array, Graph, Input, Node
from edgesearch.board_eval.lowering._batch_norm import fold_batch_norm
from edgesearch.board_eval.lowering._constants import lowers_constant, read_constant
from edgesearch.board_eval.lowering._hooks import changes_values, differ, values_apart
from edgesearch.board_eval.lowering._layers import Layers
from edgesearch.board_eval.lowering._operations import BY_NAME, DECIDED_BY_TRAINING, FUNCTIONS, MODULES
from edgesearch.board_eval.lowering._reasons import output_reason
from edgesearch.board_eval.lowering._sizes import Sizes
from edgesearch.board_eval.lowering._tracer import Untraceable, is_layer, program, traced
from edgesearch.board_eval.lowering._values import OUTSIDE, BlockedByEarlierProblem, Source, Unsupported, name_of
from edgesearch.board_eval.targets import DEFAULT_TARGET, Target, check_target
from edgesearch.errors import GraphError, LoweringError, LoweringProblem

__all__ = ["Lowered", "Source", "fold_batch_norm", "lower", "lower_with_sources", "put_in_place"]


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
    none, and an `input_shape` that is no image's, TargetError for a `target` that is none. The model is not changed.
    """
    return lower_with_sources(model, input_shape, target=target, name=name).graph


def lower_with_sources(
    model: nn.Module, input_shape: tuple[int, int, int], *, target: Target | None = DEFAULT_TARGET, name: str | None = None
) -> Lowered:
    """Like `lower`, and says which torch modules each weighted node came from."""
    shape = _checked_shape(model, input_shape)
    if target is not None:
        check_target(target)
    if not isinstance(name, str | None):
        raise GraphError(f"the network's name is of type {type(name).__name__}, expected a text")
    name = name or type(model).__name__
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        _refuse_other_forms(model, name, shape)
        if not _is_one_layer(model):
            return _lower(model, name, shape, target)
        lowered = _lower(nn.Sequential(OrderedDict([(_ONLY, model)])), name, shape, target)
        return Lowered(lowered.graph, {node: Source("", None) for node in lowered.sources})
    finally:
        if training[model]:
            model.train()  # a network may undo by it what it does for `eval`
        for module, mode in training.items():
            module.training = mode


def _lower(model: nn.Module, name: str, shape: tuple[int, int, int], target: Target | None) -> Lowered:
    module = _trace(model, name, shape)
    traced_program = program(module)  # the lowering writes into its graph
    lowering = _Lowering(model, module, name, shape)
    lowered = lowering.run(target)
    if _has_code_of_users(model):
        _check_program(model, traced_program, name, shape)
        _check_values(model, lowered.graph, shape)
    if not lowering.joins_vectors:
        return lowered
    apart = _Lowering(model, module, name, shape)
    apart.apart = True
    try:
        graph = dataclasses.replace(lowered.graph, apart=apart.run(target).graph)
    except LoweringError:  # a scale that the target does not have
        return lowered
    return Lowered(graph, lowered.sources)


def _check_program(
    model: nn.Module, traced_program: Callable[[torch.Tensor], object], name: str, shape: tuple[int, int, int]
) -> None:
    """Raise LoweringError where what was traced is not what the network does."""
    if differ(model, traced_program, shape):
        reason = (
            "what torch.fx sees of it computes something else than the network: its code decides by what only a tensor has, "
            "such as isinstance(x, torch.Tensor); decide by shapes, or not at all"
        )
        raise LoweringError(name, [LoweringProblem(name, "forward", reason)])


def _check_values(model: nn.Module, graph: Graph, shape: tuple[int, int, int]) -> None:
    """Raise LoweringError where the graph makes something else of an image than the network, as far as rounding can tell."""
    if any(node.activation == "leaky_relu" for node in graph if hasattr(node, "activation")):
        return  # of another slope than the network's, as the DPU has it

    def lowered(image: Array) -> Array:
        return run_float(graph, image)

    if distance := values_apart(model, lowered, shape):
        reason = (
            f"what was made of it for the DPU computes something else, by {distance:.1%} of the largest value: "
            "a layer changes in evaluation mode, too, or edgesearch mistakes an operation; write in-place operations out of "
            "place, and report it if that is of no help"
        )
        raise LoweringError(graph.name, [LoweringProblem(graph.name, "forward", reason)])


def _checked_shape(model: object, shape: object) -> tuple[int, int, int]:
    if not isinstance(model, nn.Module):
        raise GraphError(f"the network is of type {type(model).__name__}, expected a torch.nn.Module")
    sizes = [int(size) for size in shape if isinstance(size, Integral)] if isinstance(shape, Sequence) else []
    if not isinstance(shape, Sequence) or len(shape) != 3 or len(sizes) != 3 or min(sizes) < 1:
        raise GraphError(f"the input's shape is {shape!r}, expected (channels, height, width), such as (3, 32, 32)")
    return sizes[0], sizes[1], sizes[2]


def _has_code_of_users(model: nn.Module) -> bool:
    """Whether a class of it is neither torch's nor one of this program's networks, which are known to be traced as they are."""
    return any(not type(module).__module__.startswith(("torch.", "torchvision.", "edgesearch.")) for module in model.modules())


def _refuse_other_forms(model: nn.Module, name: str, shape: tuple[int, int, int]) -> None:
    """LoweringError for networks that torch.fx cannot look into, or would not look at as a whole."""
    reason = ""
    if compiled := [part or "it" for part, module in model.named_modules() if hasattr(module, "_orig_mod")]:
        reason = f"{compiled[0]} was made by torch.compile; give the network that it was made of, which is its `_orig_mod`"
    elif scripts := [part or "it" for part, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]:
        reason = f"{scripts[0]} is a TorchScript program; give the network that it was made of"
    elif left := [
        name for name, module in model.named_modules() if module.training and isinstance(module, DECIDED_BY_TRAINING)
    ]:
        reason = (
            f"{left[0]} stays in training mode when the network is put into evaluation mode, and would not on the DPU; let "
            "`eval` reach it"
        )
    elif any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        reason = "it has lazy layers that know no sizes yet; call it with an image first"
    elif changes_values(model, shape):
        reason = (
            "hooks, or a forward that was put on the network itself, change what it computes, and nothing of them would be on "
            "the DPU; make them layers, or remove them"
        )
    if reason:
        raise LoweringError(name, [LoweringProblem(name, "forward", reason)])


#: The name of a layer that is a network by itself.
_ONLY = "layer"


def _is_one_layer(model: nn.Module) -> bool:
    """Whether `model` is a layer of torch with weights: torch.fx would look into it, at functions of its weights."""
    return is_layer(model) and any(True for _ in (*model.parameters(recurse=False), *model.buffers(recurse=False)))


def _trace(model: nn.Module, name: str, shape: tuple[int, int, int]) -> fx.GraphModule:
    try:
        return traced(model, shape)
    except Untraceable as error:
        raise LoweringError(name, [LoweringProblem(name, "forward", str(error))]) from error


class _Lowering(Layers):
    """One pass over a traced model."""

    def run(self, target: Target | None) -> Lowered:
        self.target = target or DEFAULT_TARGET
        self.sizes = Sizes(self)
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
        if not problems and not self.output:  # never a part of the network in the place of the whole
            last = next(reversed(self.traced.graph.nodes))
            problems[last] = ["depends on an operation that this tool cannot follow; write it in another way"]
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
        put_in_place(node)
        if node.op == "placeholder":
            self._visit_placeholder(node)
        elif node.op == "call_module":
            module = self.modules[str(node.target)]
            for kind, handler in MODULES.items():
                if isinstance(module, kind):
                    handler(self, node, module)
                    return
            raise Unsupported(self.reason(node, module))
        elif node.op in ("call_function", "call_method"):
            if self.sizes.read(node) or read_constant(self, node, self._attribute):
                return
            function = FUNCTIONS.get(node.target) or BY_NAME.get(_full_name(node.target))
            if function is None:
                raise Unsupported(self.reason(node, None))
            self.sizes.check_known(node)
            if node.kwargs.get("out") is not None:
                raise Unsupported("writes its result over another tensor (out=); use the result instead")
            if not lowers_constant(self, node):
                function(self, node)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise Unsupported(output_reason(node.args[0]))
            self.output = self.result(self.value(node.args[0]))
        elif node.op == "get_attr" and not read_constant(self, node, self._attribute):
            raise Unsupported(OUTSIDE)

    def _attribute(self, path: str) -> Any:
        owner, _, name = path.rpartition(".")
        return getattr(self.traced.get_submodule(owner), name)

    def _visit_placeholder(self, node: fx.Node) -> None:
        if any(isinstance(existing, Input) for existing in self.nodes.values()):
            raise Unsupported("a second input; the DPU is given one image")
        self.put(node, Input(name=node.name, inputs=(), shape=self.input_shape))


def _full_name(target: object) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"


#: Arguments of torch's functions and layers that are tensors or shapes, by their places, where they were given by name.
_PLACES = (("input",), ("other", "dim", "size", "shape"))
#: Numpy's names of arguments, which torch's functions take, too.
_NUMPYS = {"axis": "dim", "keepdims": "keepdim"}


def put_in_place(node: fx.Node) -> None:
    """Give the arguments that the lowering reads by their places there, as in most calls."""
    arguments, named = list(node.args), {_NUMPYS.get(name, name): value for name, value in node.kwargs.items()}
    for place, names in enumerate(_PLACES):
        if len(arguments) == place and (found := [name for name in names if name in named]):
            arguments.append(named.pop(found[0]))
    node.args, node.kwargs = tuple(arguments), named
