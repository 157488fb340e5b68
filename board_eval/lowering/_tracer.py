"""A torch model as a torch.fx graph of what it computes of one image."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from edgesearch.board_eval.lowering._decisions import Decisions, Undecided
from edgesearch.board_eval.lowering._symbols import READING, Symbol, shape_of
from edgesearch.board_eval.lowering._untouched import untouched
from edgesearch.errors import in_one_line

__all__ = ["DECIDES", "Untraceable", "is_layer", "program", "traced"]


class Untraceable(Exception):
    """A network that torch.fx cannot trace; carries the reason."""


def traced(model: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """What `model` does when it is called with an image of `shape` (channels, height, width) alone.

    Its other arguments are at their defaults. Where its code decides by sizes of tensors, it goes the way that it goes for such
    an image. Raises Untraceable where it decides by values, and where it raises something itself.
    """
    tracer = NetworkTracer(shape)
    try:
        with untouched(model):
            return tracer.module(model)
    except Undecided as error:
        raise Untraceable(f"{error}{_place(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the model's own code raises on a symbolic value, or Python of its names
        raise Untraceable(f"cannot be traced by torch.fx: {in_one_line(error)}{_place(error)}") from error


def program(module: fx.GraphModule) -> Callable[[torch.Tensor], Any]:
    """What a traced network makes of an image, as its graph is now, whatever its parts are called.

    Parts named as attributes of torch.fx's own (`code`) or as words of Python (`class`) are out of reach of the code that
    torch.fx writes.
    """
    parts = nn.Module()
    parts._modules, parts._parameters, parts._buffers = module._modules, module._parameters, module._buffers
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.Interpreter(parts, graph=graph).run


class _Traced(fx.GraphModule):
    """A traced network without the code that torch.fx writes, which Python may not read."""

    def recompile(self) -> Any:
        return None


def _place(error: BaseException) -> str:
    """Where in the model's own code it was raised."""
    libraries = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    own = [step for step in traceback.extract_tb(error.__traceback__) if not step.filename.startswith((*libraries, "<"))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


#: Where a traced network's `meta` says whether its code reads sizes or types that it may decide by.
DECIDES = "decides"
#: Layers with weights, and what a subclass of them may not write anew to be one of its kind: what they compute.
_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)
#: Operators that change their first operand, as `operator` names them.
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "setitem")
_COMPUTATION = ("forward", "__call__", "_conv_forward", "_check_input_dim")


def is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of torch, or a user's class that is one with other arguments; torch.fx would look into that one."""
    # the class that torch makes for computed weights lies in torch, whatever it computes
    own = type(module).__bases__[0] if is_parametrized(module) else type(module)
    if own.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
        return not isinstance(module, nn.Sequential)
    return any(
        issubclass(own, kind) and all(getattr(own, name, None) is getattr(kind, name, None) for name in _COMPUTATION)
        for kind in _LAYERS
    )


class NetworkTracer(fx.Tracer):
    """Traces a network for an image of one shape."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self._shape = shape

    def module(self, model: nn.Module) -> fx.GraphModule:
        """The network as a graph. Raises Undecided, and what its code raises."""
        graph = self.trace(model)
        if self.decisions.refused is not None:  # which its code took for a failure
            raise self.decisions.refused
        _drop_unread(graph, self.root)
        module = _Traced(self.root, graph, type(model).__name__)
        module.meta[DECIDES] = self.decisions.told
        return module

    def plain(self, symbol: fx.Proxy) -> Any:
        """What the symbol stands for, where that is no tensor; of sizes the number of images alone stays a symbol."""
        values = self.decisions.values(symbol.node)
        if not values or any(isinstance(value, torch.Tensor) for value in values):
            return symbol
        first, second = values
        sizes = isinstance(first, torch.Size) and len(first) == len(second)
        if not sizes and first != second:
            return symbol
        self.decisions.told = True
        if not sizes:
            return first
        pairs = enumerate(zip(first, second, strict=True))
        return shape_of(one if one == other else symbol[place] for place, (one, other) in pairs)  # type: ignore[index]

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self.decisions.made(obj.node, bool, "an `if`, `while` or `assert`")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return (obj[place] for place in range(len(obj)))  # type: ignore[index]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val  # a parameter has its values and sizes, and is one of the graph's where an operation reads it

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.decisions.at_work or id(m) not in self._modules:  # one that the code makes in passing
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if any(name in vars(m) for name in _COMPUTATION):  # of this one alone
            return False
        return is_layer(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Symbol(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *others: Any, **named: Any
    ) -> Any:
        if target is torch._assert:
            return _check(*args, **kwargs)
        made = super().create_proxy(kind, target, args, kwargs, *others, **named)
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        return self.plain(made) if name in READING and kind in ("call_method", "call_function") else made

    def create_arg(self, a: Any) -> Any:
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The first argument, and others that have no default, as symbolic values; torch.fx makes all arguments such values."""
        self.decisions = Decisions(self.graph, self.root, self._shape)
        self._modules = {id(module) for module in self.root.modules()}
        _, *arguments = inspect.signature(root_fn).parameters.values()
        given = arguments[:1] + [other for other in arguments[1:] if _has_to_be_given(other)]
        return root_fn, [self.root, *(self.create_proxy("placeholder", one.name, (), {}) for one in given)]


def _check(condition: Any, message: str) -> None:
    """What `torch._assert` does."""
    if not condition:
        raise AssertionError(message)


def _has_to_be_given(argument: inspect.Parameter) -> bool:
    by_place = argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD)
    return by_place and argument.default is argument.empty


def _drop_unread(graph: fx.Graph, root: nn.Module) -> None:
    """Take out what nothing reads and what changes nothing: numbers that code decided by, branches that lead nowhere."""
    for node in reversed(graph.nodes):
        if node.op in ("get_attr", "call_function", "call_method", "call_module") and not node.users and _is_pure(node, root):
            graph.erase_node(node)


def _is_pure(node: fx.Node, root: nn.Module) -> bool:
    """Whether a call surely changes none of its operands."""
    if node.op == "call_module":
        return not any(getattr(part, "inplace", False) for part in root.get_submodule(str(node.target)).modules())
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    changes = name.endswith("_") or name in _IN_PLACE or "out" in node.kwargs
    return not changes and not any(value is True for value in (*node.args, *node.kwargs.values()))
