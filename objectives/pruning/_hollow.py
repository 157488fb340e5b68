"""Networks whose large tensors are a single zero: their shapes are asked about, and many such are kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["copied", "hollow", "is_hollow", "make_hollow"]

Network = TypeVar("Network", bound=nn.Module)


def hollow(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of this shape, of the kind of `like`, behind which is a single zero. It cannot be written to."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand(tuple(shape))


def is_hollow(tensor: Tensor) -> bool:
    """Whether a single zero is behind all elements of a tensor that has several."""
    if tensor.numel() < 2 or any(step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1):
        return False
    return not tensor[(0,) * tensor.ndim].item()


def make_hollow(model: nn.Module, *, least: int = 0) -> None:
    """Put a single zero behind each of the model's tensors of so many elements."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.numel() >= least:
            tensor.data = hollow(tensor.shape, tensor.data)


def copied(model: Network) -> Network:
    """A deep copy, in which what was hollow is so, too, instead of filled.

    Also of a network whose weights `weight_norm` or `torch.nn.utils.prune` computed, which torch does not copy by itself.
    """
    known: dict[int, object] = {}
    for value in (value for module in model.modules() for value in vars(module).values()):
        if isinstance(value, Tensor) and not value.is_leaf:
            known[id(value)] = value.detach().clone()  # until the copy's next call, which computes it anew
    for tensor in (*model.parameters(), *model.buffers()):
        if is_hollow(tensor):
            same = tensor.detach()  # nobody can write to what both share
            is_trained = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(same, requires_grad=tensor.requires_grad) if is_trained else same
    return copy.deepcopy(model, known)
