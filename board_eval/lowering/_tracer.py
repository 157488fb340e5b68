"""A torch model as a torch.fx graph of what it computes of one image."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

__all__ = ["traced"]


def traced(model: nn.Module) -> fx.GraphModule:
    """What `model` does when it is called with an image alone, its other arguments at their defaults.

    Raises whatever the model's own code raises on a symbolic value.
    """
    tracer = _Tracer()
    graph = tracer.trace(model)
    return fx.GraphModule(tracer.root, graph, type(model).__name__)


class _Value(fx.Proxy):
    """A value whose `+=` is traced as the change in place that it is for a tensor; torch.fx takes it for a sum."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {}, name="add")


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The first argument, and others that have no default, as symbolic values; torch.fx makes all arguments such values."""
        _, *arguments = inspect.signature(root_fn).parameters.values()
        given = arguments[:1] + [other for other in arguments[1:] if _has_to_be_given(other)]
        return root_fn, [self.root, *(self.create_proxy("placeholder", one.name, (), {}) for one in given)]


def _has_to_be_given(argument: inspect.Parameter) -> bool:
    by_place = argument.kind in (argument.POSITIONAL_ONLY, argument.POSITIONAL_OR_KEYWORD)
    return by_place and argument.default is argument.empty
