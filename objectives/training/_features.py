"""Feature maps of two networks that are compared stage by stage (hints: A. Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.pruning import quiet

__all__ = [
    "FeatureStage",
    "Features",
    "find_stages",
    "make_projections",
    "match_stages",
    "stage_loss",
]

#: How many stages are compared unless they are named: the thesis compares three.
_STAGES = 3

#: A stage's last module or node, its channels and its height.
FeatureStage: TypeAlias = tuple[str, int, int]


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


def find_stages(model: nn.Module, input_shape: tuple[int, int, int]) -> list[FeatureStage]:
    """(module, channels, height) of the last module at each resolution, in order of execution, without 1 x 1 outputs."""
    last: dict[tuple[int, ...], FeatureStage] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                last[tuple(output.shape[2:])] = (name, output.shape[1], output.shape[2])

        return hook

    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        with quiet(model):
            parameter = next(model.parameters())
            model(torch.zeros(1, *input_shape, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return list(last.values())


def match_stages(
    of_student: Sequence[FeatureStage], of_teacher: Sequence[FeatureStage]
) -> list[tuple[FeatureStage, FeatureStage]]:
    """The last stages of both, in pairs; raises TrainingError where one of them has none."""
    count = min(len(of_student), len(of_teacher), _STAGES)
    if not count:
        who = "the teacher" if of_student else "the student"
        raise TrainingError(f"intermediate distillation compares feature maps, and {who} has none; use logit distillation")
    return list(zip(of_student[-count:], of_teacher[-count:], strict=True))


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
