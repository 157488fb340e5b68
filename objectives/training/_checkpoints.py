"""The state of a training as named tensors and JSON, so that a store can keep it and a training can go on from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Checkpoints", "Saver", "goes_on", "misfit", "pack", "unpack", "until"]

#: Named tensors, and JSON.
State: TypeAlias = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoints(Protocol):
    """Where a training keeps its state. A store implements it, for one training."""

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Epochs done, tensors and meta as last saved; None if there is nothing or it is damaged."""

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Keep the state after `epoch` epochs, or within the one that follows, in the place of an earlier one, whole or not at
        all. Tensors are on the CPU; meta is JSON.
        """

    def clear(self) -> None:
        """Forget what was saved."""


class Saver:
    """Saves a training when it is time: after an epoch from `seconds` on since the last time, within one from `within` on.

    With each state go the seconds of the training up to it: this process's and, `spent`, those of others before it. What a
    training that stops has cost is told where it stops, and no state of it tells it again.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, state: Callable[[], State], *, seconds: float, within: float, spent: float = 0.0
    ) -> None:
        self._checkpoints, self._state, self._seconds, self._within = checkpoints, state, seconds, within
        self._saved = time.perf_counter()
        self._began = self._saved - spent

    def after_epoch(self, epoch: int, *, stopping: bool) -> None:
        """`epoch` epochs are done. A training that stops here is saved at any time."""
        if stopping or self._since() >= self._seconds:
            self._save(epoch, ended=stopping)

    def after_step(self, epoch: int) -> None:
        """A step is done of the epoch behind `epoch`."""
        if self._since() >= self._within:
            self._save(epoch)

    def _since(self) -> float:
        return time.perf_counter() - self._saved

    def _save(self, epoch: int, *, ended: bool = False) -> None:
        if self._checkpoints is not None:
            tensors, meta = self._state()
            self._checkpoints.save(epoch, tensors, meta | {"spent": 0.0 if ended else time.perf_counter() - self._began})
        self._saved = time.perf_counter()


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that later steps do not change, with its numbers in reading order."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def pack(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and buffers of `modules` as PREFIX/NAME, and the optimizer's state as optimizer/PARAMETER/NAME."""
    tensors = {
        f"{prefix}/{name}": _own(value) for prefix, module in modules.items() for name, value in module.state_dict().items()
    }
    for place, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer/{place}/{name}"] = _own(torch.as_tensor(value))
    return tensors


def misfit(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> str:
    """Where `pack`'s tensors are those of other modules, by their names or shapes: the first difference; "" where they fit."""
    own = {f"{prefix}/{name}": value.shape for prefix, module in modules.items() for name, value in module.state_dict().items()}
    given = {name: value.shape for name, value in tensors.items() if name.partition("/")[0] in modules}
    for name in dict.fromkeys((*own, *given)):
        found, expected = given.get(name), own.get(name)
        if found != expected:
            shapes = ["nothing" if shape is None else str(tuple(shape)) for shape in (found, expected)]
            return f"{name.partition('/')[2]} is {shapes[0]} there and {shapes[1]} here"
    return ""


def until(checkpoints: Checkpoints | None, last: int) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """What was saved last, unless it is beyond `last` epochs."""
    latest = None if checkpoints is None else checkpoints.latest()
    return None if latest is None or (latest[0], "under_way" in latest[2]) > (last, False) else latest


def goes_on(checkpoints: Checkpoints | None, model: nn.Module, last: int) -> bool:
    """Whether a training of `model` to epoch `last` goes on from what was saved, instead of beginning anew."""
    latest = until(checkpoints, last)
    return latest is not None and not misfit(latest[1], {"model": model})


def unpack(tensors: dict[str, Tensor], modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Puts `pack`'s tensors back, in the memory layout that a training without a break has."""
    for prefix, module in modules.items():
        head = f"{prefix}/"
        module.load_state_dict({name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)})
    parameters, at_parameter = _parameters(optimizer), _steps_at_parameter(optimizer)
    for name, value in tensors.items():
        if not name.startswith("optimizer/"):
            continue
        _, place, key = name.split("/", 2)
        parameter = parameters[int(place)]
        if key == "step":
            kept = value.to(parameter.device if at_parameter[int(place)] else "cpu", copy=True)
        elif value.shape == parameter.shape:
            kept = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:
            kept = value.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = kept


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _steps_at_parameter(optimizer: torch.optim.Optimizer) -> list[bool]:
    """Of each parameter, whether its optimizer counts steps where it lies, as torch's fused ones and Muon do."""
    return [bool(group.get("fused") or "orthogonal" in group) for group in optimizer.param_groups for _ in group["params"]]
