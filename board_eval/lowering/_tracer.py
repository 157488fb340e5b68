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
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if "forward" in vars(m):  # of this one alone
            return False
        return _is_layer(m) or super().is_leaf_module(m, module_qualified_name)

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
