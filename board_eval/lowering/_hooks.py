"""What is called beside a network's own code: torch.fx sees no hooks, and no `forward` that was put on the network itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["changes_values"]

#: Hooks that the lowering knows: they compute a layer's weight.
_KNOWN = (WeightNorm, SpectralNorm, BasePruningMethod)


@torch.no_grad()
def changes_values(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether hooks, or a `forward` of the network alone, change what it computes of an image; most hooks only look."""
    if not _is_accompanied(model) or any(map(is_lazy, (*model.parameters(), *model.buffers()))):  # which a call would change
        return False
    parameter = next((one for one in model.parameters() if one.is_floating_point()), torch.empty(0))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    with suppress(Exception), torch.random.fork_rng(devices=[]):  # whatever the user's own code raises: tracing it tells
        torch.manual_seed(0)
        answer = model(image.clone())
        torch.manual_seed(0)
        with _bare(model):
            return not _is_same(answer, model(image.clone()))
    return False


def _is_accompanied(model: nn.Module) -> bool:
    return "forward" in vars(model) or any(
        module._forward_hooks or any(_is_foreign(hook) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


def _is_foreign(hook: Callable[..., object]) -> bool:
    return not isinstance(hook, _KNOWN)


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """The network without them. They are there again behind it, in their order."""
    own, kept = vars(model).pop("forward", None), []
    for module in model.modules():
        before, behind = module._forward_pre_hooks, module._forward_hooks
        kept.append((module, dict(before), dict(behind)))
        for key in [key for key, hook in before.items() if _is_foreign(hook)]:
            del before[key]
        behind.clear()
    try:
        yield
    finally:
        for module, pre_hooks, hooks in kept:
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(pre_hooks)
            module._forward_hooks.update(hooks)
        if own is not None:
            vars(model)["forward"] = own


def _is_same(one: object, other: object) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other)  # what is no tensor is refused as an output
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
