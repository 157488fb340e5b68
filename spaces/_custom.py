"""A network of the user's own, by import path: what it takes, and what it declares.

Its class is called with those of `num_classes`, `in_channels`, `width` and `input_size` that it takes, and with parameters of
its own, which it may declare together with their choices:

    class Net(torch.nn.Module):
        search_space = {
            "depth": {"low": 2, "high": 4, "step": 1},
            "block": ["plain", "inverted"],
            "expansion": {"when": {"block": ["inverted"]}, "choices": [2, 4]},
        }
        def __init__(self, num_classes: int, depth: int, block: str, expansion: int = 1): ...

A parameter under a condition is asked for, and given to the class, only where the condition holds. Ranges of whole numbers with
a step give integers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgesearch.errors import PluginError, SpaceError
from edgesearch.plugins import is_import_path, load, source_fingerprint
from edgesearch.settings import explain
from edgesearch.spaces._candidate import Candidate, Student
from edgesearch.spaces._choices import Conditional, Parameter
from edgesearch.spaces._fingerprint import weights_fingerprint
from edgesearch.spaces._space import Space, StudentOverride

#: Defaults of an argument `channels` that means those of images: one of 32, say, is how wide the network is.
_OF_IMAGES = (1, 3, None, inspect.Parameter.empty)


def complete(student: Student, *, folder: Path | None = None) -> Student:
    """The student with the checksums of its weights file and of its code, without a width that it does not take, and with the
    `channels` that its class has by default, where these are not the image's.

    Checksums that are there stay. Code that cannot be imported is left to `build`, which says why. Raises SpaceError for
    weights that cannot be read.
    """
    update: dict[str, Any] = {"weights_sha256": student.weights_sha256 or weights_fingerprint(student.weights)}
    if is_import_path(student.architecture):
        update["source_sha256"] = student.source_sha256 or source_fingerprint(student.architecture, folder=folder)
        accepted, own = _arguments(student, folder)
        if student.width != 1.0 and accepted is not None and (own("width") or not _takes_width(accepted)):
            update["width"] = 1.0
        if accepted is not None and own("channels") and "channels" not in student.parameters:
            default = accepted["channels"].default
            if isinstance(default, bool | int | float | str):  # an earlier version gave the image's, under another key
                update["parameters"] = {**student.parameters, "channels": default}
    return student.model_copy(update=update)


def complete_candidate(candidate: Candidate, *, folder: Path | None = None) -> Candidate:
    """The candidate with the checksums of all files that it names: weights, and the code of what is given by import path."""
    pruning, quantization = candidate.pruning, candidate.quantization
    if is_import_path(pruning.method) and not pruning.source_sha256:
        pruning = pruning.model_copy(update={"source_sha256": source_fingerprint(pruning.method, folder=folder)})
    if is_import_path(quantization.algorithm) and not quantization.source_sha256:
        fingerprint = source_fingerprint(quantization.algorithm, folder=folder)
        quantization = quantization.model_copy(update={"source_sha256": fingerprint})
    student = complete(candidate.student, folder=folder)
    return candidate.model_copy(update={"student": student, "pruning": pruning, "quantization": quantization})


def without_checksums_of_code(candidate: Candidate) -> Candidate:
    """The candidate as it is before it is complete: whatever the code is that it names by import path."""
    parts = {"student": candidate.student, "pruning": candidate.pruning, "quantization": candidate.quantization}
    return candidate.model_copy(update={name: part.model_copy(update={"source_sha256": ""}) for name, part in parts.items()})


def _takes_width(accepted: Mapping[str, inspect.Parameter]) -> bool:
    return "width" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())


def _arguments(student: Student, folder: Path | None) -> tuple[Mapping[str, inspect.Parameter] | None, Callable[[str], bool]]:
    """What the student's class takes, None where that cannot be told; and whether it means something of its own by a name."""
    try:
        factory = factory_of(student.architecture, folder)
        accepted = inspect.signature(factory).parameters
    except (PluginError, TypeError, ValueError):
        return None, lambda name: False
    return accepted, lambda name: is_own(factory, accepted, student, name)


def is_own(factory: Any, accepted: Mapping[str, inspect.Parameter], student: Student, name: str) -> bool:
    declared = getattr(factory, "search_space", None)
    if name in student.parameters or (isinstance(declared, Mapping) and name in declared):
        return True
    if name != "channels" or name not in accepted:
        return False
    return "in_channels" in accepted or accepted[name].default not in _OF_IMAGES


def with_declared_parameters(space: Space, *, folder: Path | None = None) -> Space:
    """The space with the parameters that its networks by import path declare as `search_space`; given choices come first.

    Code that cannot be imported is left to `build`. Raises SpaceError for a declaration that is none.
    """
    overrides = dict(space.student)
    for name in filter(is_import_path, space.students):
        try:
            declared = getattr(factory_of(name, folder), "search_space", None)
        except PluginError:
            continue
        if declared is None:
            continue
        found = overrides.get(name)
        override = found if isinstance(found, StudentOverride) else StudentOverride()
        if not isinstance(declared, Mapping):
            raise SpaceError(f"search_space of student {name!r} is {declared!r}; expected a dict of parameter: choices")
        unordered = [key for key, choice in declared.items() if isinstance(choice, AbstractSet)]
        if unordered:  # in another process it has another order
            raise SpaceError(f"search_space of student {name!r} has a set of {unordered[0]}, which has no order; give a list")
        try:
            choices = StudentOverride.model_validate({"parameters": dict(declared)}).parameters
        except ValidationError as error:
            raise SpaceError(f"search_space of student {name!r}: {explain(error)}") from error
        given = {key: _under_condition(choices.get(key), parameter) for key, parameter in override.parameters.items()}
        overrides[name] = override.model_copy(update={"parameters": choices | given})
    return space if overrides == space.student else space.model_copy(update={"student": overrides})


def _under_condition(declared: Parameter | None, given: Parameter) -> Parameter:
    """What a study gives for a parameter; it exists under the condition that its class declares."""
    if isinstance(declared, Conditional) and not isinstance(given, Conditional):
        return declared.model_copy(update={"choices": given})
    return given


def factory_of(architecture: str, folder: Path | None, expected_sha256: str = "") -> Callable[..., Any]:
    thing = load(architecture, folder=folder, noun="student", expected_sha256=expected_sha256)
    if not callable(thing):
        raise PluginError(
            f"student {architecture!r} is a {type(thing).__name__}; expected a torch.nn.Module class or a function making one"
        )
    return thing
