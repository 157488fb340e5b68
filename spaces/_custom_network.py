"""A network of the user's own, as its class makes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgesearch.errors import NetworkRefused, in_one_line
from edgesearch.plugins import with_torchvision
from edgesearch.spaces._candidate import Student
from edgesearch.spaces._custom import factory_of, is_own

__all__ = ["build_custom"]


def build_custom(student: Student, channels: int, classes: int, folder: Path | None) -> nn.Module:
    """The network that a user's class or function makes of what it takes of the student's settings."""
    where = student.architecture
    factory = factory_of(where, folder, student.source_sha256)
    offered = {"num_classes": classes, "in_channels": channels, "width": student.width, "input_size": student.input_size}
    try:
        accepted = inspect.signature(factory).parameters
        other = {"channels": channels} if "num_classes" in accepted else {"channels": channels, "classes": classes}
        taken = {n: v for n, v in (offered | other).items() if n in accepted and not is_own(factory, accepted, student, n)}
        model = with_torchvision(lambda: _made(factory, accepted, taken | student.parameters, offered))
    except (Exception, SystemExit) as error:  # whatever the user's own constructor raises
        raise NetworkRefused(f"student {where!r} cannot be made: {in_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise NetworkRefused(f"student {where!r} made a {type(model).__name__}, expected a torch.nn.Module")
    _refuse_unhashable(model, where)
    if _lazy(model):
        _initialise(model, (channels, student.input_size, student.input_size), where)
    _refuse_unusable_parameters(model, student)
    return model


def _made(
    factory: Callable[..., Any], accepted: Mapping[str, Parameter], taken: Mapping[str, Any], offered: Mapping[str, Any]
) -> Any:
    """What the factory makes. One that hands on what else it is given, as torchvision's functions do, is given more of what is
    `offered`, as far as that is taken: the number of classes where it names none, the channels of the image, a width that is
    not the whole, and what it says that it lacks.
    """
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return factory(**taken)
    names = {"num_classes", "in_channels", "width"} - {*accepted, *taken}
    if "classes" in {*accepted, *taken}:
        names.discard("num_classes")
    if offered["width"] == 1.0:
        names.discard("width")
    drawn, tried = torch.get_rng_state(), list[set[str]]()
    while True:
        try:
            return factory(**taken, **{name: offered[name] for name in names})
        except Exception as error:  # whatever the user's own code says of what it lacks, or does not know
            quoted, tried = {name for name in offered if f"'{name}'" in str(error)}, [*tried, names]
            lacks = quoted - names - {*taken} if "missing" in str(error) else set()
            names = names | lacks if lacks else names - (names & quoted or names - {"num_classes"})
            if names in tried:
                raise
            torch.set_rng_state(drawn)


def _refuse_unusable_parameters(model: nn.Module, student: Student) -> None:
    """NetworkRefused for a network that no training could start from as it was made, or that is more than its tensors."""
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise NetworkRefused(
                f"student {student.architecture!r} cannot be kept: its state_dict holds {name}, a {type(value).__name__} "
                "(get_extra_state); keep what it needs in tensors, by register_buffer"
            )
    for name, parameter in model.named_parameters():
        problem = ""
        if parameter.is_meta:
            problem = "is on torch's `meta` device, which keeps no values; make it on the CPU"
        elif not parameter.is_floating_point():
            problem = f"is {parameter.dtype}, which has no gradients; keep constants by register_buffer"
        elif parameter.dtype != torch.float32:
            problem = f"is {parameter.dtype}; expected torch.float32, which images are: leave .half(), .double() and dtype= out"
        elif not student.weights and not bool(torch.isfinite(parameter).all()):  # else a file may give the values
            problem = "has NaN or infinite values as its class makes it; give it finite ones"
        if problem:
            raise NetworkRefused(f"student {student.architecture!r} cannot be trained: its {name} {problem}")


def _refuse_unhashable(model: nn.Module, where: str) -> None:
    """NetworkRefused for a network with a part that is no key of a dict, as torch needs it; a plain dataclass is none."""
    waiting, seen = [model], set[int]()
    while waiting:
        module = waiting.pop()
        if type(module).__hash__ is None:
            raise NetworkRefused(
                f"student {where!r} cannot be used: its {type(module).__name__} compares by values and so has no hash, which "
                "torch needs; write @dataclass(eq=False)"
            )
        parts = [] if id(module) in seen else module.__dict__.get("_modules", {}).values()
        seen.add(id(module))
        waiting += [part for part in parts if part is not None]


def _lazy(model: nn.Module) -> list[str]:
    """The names of tensors whose shapes follow from the first image."""
    return [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]


def _initialise(model: nn.Module, shape: tuple[int, int, int], where: str) -> None:
    """Show the network one image, so that its lazy layers (LazyConv2d, LazyLinear) know their sizes. Its modes stay."""
    modes = [(module, module.training) for module in model.modules()]
    image = " x ".join(map(str, shape))
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise NetworkRefused(
            f"student {where!r} has lazy layers, whose sizes follow from an image, and fails on one of {image}: "
            f"{in_one_line(error)}"
        ) from error
    for module, training in modes:
        module.training = training
    if left := _lazy(model):
        raise NetworkRefused(
            f"student {where!r} has lazy layers that an image of {image} never reaches: {', '.join(left)}; remove them, or "
            "give their sizes"
        )
