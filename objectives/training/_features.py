"""Feature maps of two networks that are compared stage by stage (hints: A. Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.errors import TrainingError

__all__ = ["Features", "make_projections", "stage_loss"]


class Features:
    """Keeps the last output of each of some modules, while it is attached to them."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise TrainingError(f"no module {missing[0]!r} in {type(model).__name__} to take features from")
        self.names = tuple(names)
        self.outputs: list[Tensor | None] = [None] * len(names)
        self._handles = [modules[name].register_forward_hook(self._keep(place)) for place, name in enumerate(names)]

    def _keep(self, place: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.outputs[place] = output

        return hook

    def taken(self) -> list[Tensor]:
        """The maps (B, C, H, W) of the last pass, which are let go of; raises TrainingError where a module gave none."""
        taken = []
        for name, output in zip(self.names, self.outputs, strict=True):
            if output is None or output.ndim != 4:
                raise TrainingError(f"module {name!r} gives no feature maps to compare")
            taken.append(output)
        self.outputs = [None] * len(taken)
        return taken

    def detach(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()


def make_projections(channels: Sequence[tuple[int, int]], seed: int) -> nn.ModuleList:
    """For each pair (student's channels, teacher's) a 1 x 1 convolution from the one to the other, to be trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList([nn.Conv2d(ours, theirs, 1, bias=False) for ours, theirs in channels])


def stage_loss(projections: nn.ModuleList, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """The sum over stages of the mean squared error of the student's projected maps (B, C, H, W); the coarser size counts."""
    terms = []
    for projection, own, target in zip(projections, ours, theirs, strict=True):
        size = (min(own.shape[2], target.shape[2]), min(own.shape[3], target.shape[3]))
        pooled = F.adaptive_avg_pool2d(own.float(), size)
        terms.append(F.mse_loss(projection(pooled).float(), F.adaptive_avg_pool2d(target.detach().float(), size)))
    return sum(terms[1:], terms[0])
