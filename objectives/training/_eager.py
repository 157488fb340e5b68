"""torch's optimizers without torch's compiler.

An optimizer of torch imports the compiler, more than a second and 70 MB of every process that trains, only to tell it what is
not to be compiled. Nothing here is compiled, so these do without: their methods are those below torch's decorators.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SGD", "Adam", "AdamW", "Eager"]


def _plain(method: Callable[..., Any]) -> Any:
    return inspect.unwrap(method)


def _step_of(kind: type[torch.optim.Optimizer]) -> Any:
    """Its step without gradients, as torch's own decorator has it."""
    return torch.no_grad()(_plain(kind.step))


class Eager(torch.optim.Optimizer):
    """What optimizers share; its own step is up to each of them."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)


class SGD(Eager, torch.optim.SGD):
    """torch's SGD."""

    step = _step_of(torch.optim.SGD)


class Adam(Eager, torch.optim.Adam):
    """torch's Adam."""

    step = _step_of(torch.optim.Adam)


class AdamW(Eager, torch.optim.AdamW):
    """torch's AdamW."""

    step = _step_of(torch.optim.AdamW)
