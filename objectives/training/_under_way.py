"""An epoch that has begun: what a checkpoint within it must hold, so that its other steps are those of one without a break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgesearch.objectives.training._random import kept_numbers

__all__ = ["UnderWay"]


@dataclass
class UnderWay:
    """The losses of its steps so far, the seconds that they took, and random numbers as they were behind them.

    `random`: of the CPU, and of the GPU where the training is on one; empty: those that the epoch begins with.
    """

    losses: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    random: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], device: torch.device) -> UnderWay:
        """As `state` told of it."""
        random = {name: value for name, value in tensors.items() if name != "losses"}
        return cls(list(tensors["losses"].to(device).unbind()), float(meta["seconds"]), random)

    def state(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors on the CPU, and JSON; called where the numbers of `random_numbers` are drawn."""
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {"losses": torch.stack(self.losses).cpu(), **random}, {"seconds": self.seconds}

    @contextmanager
    def random_numbers(self, device: torch.device, seed: int) -> Iterator[None]:
        """Random numbers are those of the epoch meanwhile, which begins with `seed`; behind it they are as before.

        NumPy's and Python's, which a network of the user's own may draw, have no state in `random`: they begin with each step.
        """
        cuda = device.type == "cuda"
        with kept_numbers(), torch.random.fork_rng(devices=[device] if cuda else []):
            torch.manual_seed(seed)
            if self.random:
                torch.set_rng_state(self.random["cpu"])
            if "cuda" in self.random and cuda:
                torch.cuda.set_rng_state(self.random["cuda"], device)
            yield
