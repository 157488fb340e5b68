"""The mean of a network's weights over its last steps, which is often better than the weights that training ends with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]

#: Where a state has the count of steps: no tensor of a network has a name that ends with a dot.
_COUNT = "count."


class Average:
    """An exponential moving average of weights and batch-norm statistics over about `steps` steps.

    In the first steps it is the plain mean of all so far.
    """

    def __init__(self, model: nn.Module, steps: float) -> None:
        self._model, self._least, self._count = model, 1 - math.exp(-1 / steps), 0
        self._mean = [value.detach().clone() for value in self._values().values()]
        self._share: float | Tensor = 1.0
        if self._mean and self._mean[0].device.type == "cuda":  # there a step may be a recording, which reads it anew each time
            self._share = torch.ones((), device=self._mean[0].device)

    def count(self) -> None:
        """One more step is about to be made."""
        self._count += 1
        share = max(self._least, 1 / self._count)
        if isinstance(self._share, Tensor):
            self._share.fill_(share)
        else:
            self._share = share

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now, behind the step that was counted last."""
        values = list(self._values().values())
        if isinstance(self._share, float):
            torch._foreach_lerp_(self._mean, values, self._share)
            return
        moved = torch._foreach_sub(values, self._mean)
        torch._foreach_mul_(moved, self._share)
        torch._foreach_add_(self._mean, moved)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the mean meanwhile."""
        own = [value.detach().clone() for value in self._values().values()]
        self.keep()
        yield
        torch._foreach_copy_(list(self._values().values()), own)

    @torch.no_grad()
    def keep(self) -> None:
        """Put the mean into the model."""
        torch._foreach_copy_([value.detach() for value in self._values().values()], self._mean)

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs, on the CPU."""
        named = dict(zip(self._values(), self._mean, strict=True))
        return {_COUNT: torch.tensor(self._count), **{name: v.to("cpu", copy=True).contiguous() for name, v in named.items()}}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._count = int(state[_COUNT if _COUNT in state else "count"])  # "count": in checkpoints of before
        for name, mean in zip(self._values(), self._mean, strict=True):
            mean.copy_(state[name])

    def _values(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.state_dict().items() if value.is_floating_point()}
