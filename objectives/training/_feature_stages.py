"""Where the feature maps of a network are: the module that gives the last value of each resolution.

That is the largest module which ends there, a whole block or stage, with what its own code adds or joins behind its layers.
What a block computes on its way to a smaller size is part of that step, and not of what was there before: 1 x 1 layers that
widen or narrow what a stride then reduces, and branches that are joined behind it. Convolutions that look around, with a pool
behind them, are no such step: a plain chain's last value is the one in front of its pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.pruning import quiet

__all__ = ["FEATURES_VERSION", "FeatureStage", "find_stages", "match_stages"]

#: Raised by one whenever other maps are found in some network; trainings that compare maps have another key then.
FEATURES_VERSION = 2  # 1: the last layer at each resolution, whatever it was a part of, as it was called last
#: How many stages are compared unless they are named: the thesis compares three.
_STAGES = 3

#: A stage's module, its channels and its height.
FeatureStage: TypeAlias = tuple[str, int, int]
_Size: TypeAlias = tuple[int, int]


def find_stages(model: nn.Module, input_shape: tuple[int, int, int]) -> list[FeatureStage]:
    """(module, channels, height) of the last value at each resolution, in order of execution, without 1 x 1 outputs.

    A module that is called more than once stands for its last call.
    """
    watch = _Watch()
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(watch.enter, with_kwargs=True))
        handles.append(module.register_forward_hook(partial(watch.leave, name)))
    try:
        with quiet(model):
            parameter = next(model.parameters())
            model(torch.zeros(1, *input_shape, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return watch.stages()


def match_stages(
    of_student: Sequence[FeatureStage], of_teacher: Sequence[FeatureStage]
) -> list[tuple[FeatureStage, FeatureStage]]:
    """The last stages of both, in pairs; raises TrainingError where one of them has none."""
    count = min(len(of_student), len(of_teacher), _STAGES)
    if not count:
        who = "the teacher" if of_student else "the student"
        raise TrainingError(f"intermediate distillation compares feature maps, and {who} has none; use logit distillation")
    return list(zip(of_student[-count:], of_teacher[-count:], strict=True))


@dataclass
class _Call:
    """A call of a module that has not ended."""

    reads: Tensor | None
    began: int
    readers: int = 0  # modules that it calls itself on what it reads
    looks_around: bool = False  # whether a convolution larger than 1 x 1 in it keeps the size of what it reads

    @property
    def steps_by_itself(self) -> bool:
        """Whether all that it does at the size of what it reads belongs to its step to a smaller one, if it makes one."""
        return self.readers > 1 or not self.looks_around


@dataclass
class _Value:
    """What a module's last call gave."""

    size: _Size
    channels: int
    began: int
    steps: int = 0  # how many steps to a smaller size it is a part of


class _Watch:
    """Hooks of all modules of a network, for one pass."""

    def __init__(self) -> None:
        self._open: list[_Call] = []
        self._values: dict[str, _Value] = {}  # by module, in the order in which their last calls ended
        self._calls = 0

    def enter(self, module: nn.Module, inputs: Any, named: Any) -> None:
        read = inputs[0] if inputs else named.get("input")
        reads = read if isinstance(read, Tensor) else None
        if reads is not None and self._open:
            self._open[-1].readers += self._open[-1].reads is reads
        self._calls += 1
        self._open.append(_Call(reads, self._calls))

    def leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self._open.pop()
        size, before = _size(output), _size(call.reads)
        if size is not None and _is_wide(module):
            for outer in self._open:
                outer.looks_around |= _size(outer.reads) == size
        if before is not None and _pixels(size) < _pixels(before) and call.steps_by_itself:
            for value in self._values.values():
                value.steps += value.began > call.began and value.size == before
        self._values.pop(name, None)
        if size is not None and _pixels(size) > 1:
            self._values[name] = _Value(size, output.shape[1], call.began)

    def stages(self) -> list[FeatureStage]:
        """Of each size the value that is part of the fewest steps, the last of those."""
        best: dict[_Size, tuple[str, _Value]] = {}
        for name, value in self._values.items():
            if value.size not in best or value.steps <= best[value.size][1].steps:
                best[value.size] = (name, value)
        order = list(self._values)
        chosen = sorted(best.values(), key=lambda found: order.index(found[0]))
        return [(name, value.channels, value.size[0]) for name, value in chosen]


def _size(value: Any) -> _Size | None:
    """Height and width of maps (N, C, H, W); None for anything else."""
    return (value.shape[2], value.shape[3]) if isinstance(value, Tensor) and value.ndim == 4 else None


def _pixels(size: _Size | None) -> int:
    return 0 if size is None else size[0] * size[1]


def _is_wide(module: nn.Module) -> bool:
    """Whether it is a layer with a kernel that is larger than one pixel."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 4 and max(weight.shape[2:]) > 1
