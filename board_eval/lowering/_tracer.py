"""A torch model as a torch.fx graph of what it computes of one image."""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import fx, nn

from edgesearch.board_eval.lowering._decisions import Decisions, Undecided

__all__ = ["Untraceable", "traced"]

_Number = TypeVar("_Number")


class Untraceable(Exception):
    """A network that torch.fx cannot trace; carries the reason."""


def traced(model: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """What `model` does when it is called with an image of `shape` (channels, height, width) alone.

    Its other arguments are at their defaults. Where its code decides by sizes of tensors, it goes the way that it goes for such
    an image. Raises Untraceable where it decides by values, and where it raises something itself.
    """
    tracer = _Tracer(shape)
    try:
        graph = tracer.trace(model)
        tracer.decisions.clear()
        return fx.GraphModule(tracer.root, graph, type(model).__name__)
    except Undecided as error:
        raise Untraceable(f"{error}{_place(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the model's own code raises on a symbolic value, or Python of its names
        raise Untraceable(f"cannot be traced by torch.fx: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """Where in the model's own code it was raised."""
    libraries = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    own = [step for step in traceback.extract_tb(error.__traceback__) if not step.filename.startswith((*libraries, "<"))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


class _Value(fx.Proxy):
    """A value whose `+=` is traced as the change in place that it is for a tensor; torch.fx takes it for a sum.

    Where Python needs a number, it is computed (see Decisions).
    """

    tracer: _Tracer

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        return _Attribute(self, k)

    def __iadd__(self, other: object) -> fx.Proxy:
        added: fx.Proxy = self.tracer.create_proxy("call_function", operator.iadd, (self, other), {}, name="add")
        return added

    def __len__(self) -> int:
        return self._number(len, "the length")

    def __int__(self) -> int:
        return self._number(int, "a whole number")

    def __index__(self) -> int:
        return self._number(operator.index, "a whole number")

    def __float__(self) -> float:
        return self._number(float, "a number")

    def __format__(self, spec: str) -> str:
        try:  # in the message of an error
            return format(self._number(_plain, "text"), spec)
        except Undecided:
            return repr(self)

    def _number(self, wanted: Callable[[Any], _Number], what: str) -> _Number:
        return self.tracer.decisions.made(self.node, wanted, what)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raise Undecided("a tensor's values")
    return value


class _Attribute(_Value, fx.proxy.Attribute):
    """An attribute of a value, such as its shape."""


#: Layers with weights, and what a subclass of them may not write anew to be one of its kind: what they compute.
_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)
_COMPUTATION = ("forward", "__call__", "_conv_forward", "_check_input_dim")


def _is_layer(module: nn.Module) -> bool:
    """Whether a user's class is a layer of torch with other arguments; torch.fx would look into it, at functions of weights."""
    own = type(module)
    return any(
        isinstance(module, kind) and all(getattr(own, name, None) is getattr(kind, name, None) for name in _COMPUTATION)
        for kind in _LAYERS
    )


class _Tracer(fx.Tracer):
    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self._shape = shape

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decisions.made(obj.node, bool, "an `if`, `while` or `assert`"))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return (obj[place] for place in range(len(obj)))  # type: ignore[index]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self.decisions.at_work else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return forward(*args, **kwargs) if self.decisions.at_work else super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if "forward" in vars(m):  # of this one alone
            return False
        return _is_layer(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *others: Any, **named: Any
    ) -> Any:
        if target is not torch._assert:
            return super().create_proxy(kind, target, args, kwargs, *others, **named)
        return _check(*args, **kwargs)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The first argument, and others that have no default, as symbolic values; torch.fx makes all arguments such values."""
        self.decisions = Decisions(self.graph, self.root, self._shape)
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
