"""What is called beside a network's own code: torch.fx sees no hooks, and no `forward` that was put on the network itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgesearch.board_eval.graph import Array
from edgesearch.board_eval.lowering._untouched import untouched

__all__ = ["changes_values", "differ", "values_apart"]

#: Hooks of all networks, before and behind their parts.
_EVERYWHERE = (modules._global_forward_pre_hooks, modules._global_forward_hooks)

#: By what share of its largest value two ways to compute a network may differ; and where it computes with fewer bits itself.
_ROUNDING, _COARSE = 5e-3, 5e-2

#: Hooks that the lowering knows: they compute a layer's weight.
_KNOWN = (WeightNorm, SpectralNorm, BasePruningMethod)


def changes_values(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether hooks, or a `forward` of the network alone, change what it computes of an image; most hooks only look."""
    if not _is_accompanied(model):
        return False

    def bare(image: Tensor) -> object:
        with _bare(model):
            return nn.Module.__call__(model, image)

    return differ(model, bare, shape)


@torch.no_grad()
def differ(model: nn.Module, other: Callable[[Tensor], object], shape: tuple[int, int, int]) -> bool:
    """Whether `other` makes something else of an image than `model`, left as it was, or fails; not so where `model` fails."""
    image = _image(model, shape)
    with untouched(model):
        try:
            torch.manual_seed(0)
            answer = model(image.clone())
        except Exception:  # whatever the user's own code raises: tracing it tells
            return False
        with suppress(Exception):
            torch.manual_seed(0)
            return not _is_same(answer, other(image.clone()))
        return True


@torch.no_grad()
def values_apart(model: nn.Module, other: Callable[[Array], Array], shape: tuple[int, int, int]) -> float:
    """How far what `other` makes of an image (1, H, W, C) is from what `model` does, as a share of its largest value.

    0 where that may be rounding, where `model` fails, and where its answer has values that are not finite.
    """
    image = _image(model, shape)
    with untouched(model):
        try:
            torch.manual_seed(0)
            answer = model(image.clone())
        except Exception:  # as above
            return 0.0
    if not isinstance(answer, Tensor) or answer.is_meta or not answer.isfinite().all():
        return 0.0
    expected = answer.detach().cpu().double().numpy()
    found = other(image.cpu().float().permute(0, 2, 3, 1).contiguous().numpy()).astype(np.float64)
    if found.ndim == 4:
        found = found.transpose(0, 3, 1, 2)
    largest = max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    distance = float(np.abs(found.reshape(expected.shape) - expected).max(initial=0.0)) / largest
    fine = image.dtype in (torch.float32, torch.float64)
    if distance <= (_ROUNDING if fine else _COARSE):
        return 0.0
    return distance if math.isfinite(distance) else 1.0


def _image(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """One whose values are beyond any clip, of the network's own type."""
    parameter = next((one for one in model.parameters() if one.is_floating_point()), torch.empty(0, device="cpu"))
    return 8 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), device="cpu").to(parameter)


def _is_accompanied(model: nn.Module) -> bool:
    if _EVERYWHERE[0] or _EVERYWHERE[1] or "forward" in vars(model) or type(model).__call__ is not nn.Module.__call__:
        return True
    return any(
        module._forward_hooks or any(_is_foreign(hook) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


def _is_foreign(hook: Callable[..., object]) -> bool:
    return not isinstance(hook, _KNOWN)


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """The network without them. They are there again behind it, in their order."""
    own, kept = vars(model).pop("forward", None), []
    everywhere = [dict(hooks) for hooks in _EVERYWHERE]
    for hooks in _EVERYWHERE:
        hooks.clear()
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
        for hooks, known in zip(_EVERYWHERE, everywhere, strict=True):
            hooks.update(known)
        if own is not None:
            vars(model)["forward"] = own


def _is_same(one: object, other: object) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other)  # what is no tensor is refused as an output
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
