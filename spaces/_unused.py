"""Choices of a space that none of its candidates has, since what they belong to is not among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgesearch.spaces._candidate import (
    DISTILLATION_SETTINGS,
    QAT_ALGORITHMS,
    STAGED,
    STUDENTS_WITH_HEAD,
    TORCHVISION_STUDENTS,
)
from edgesearch.spaces._choices import Range, least, most
from edgesearch.spaces._presets import find_staged
from edgesearch.spaces._pruning import PRUNING_METHODS, SPARSE_METHODS
from edgesearch.spaces._reach import FIELDS, NUMBERS, Reach, reach
from edgesearch.spaces._space import Space

__all__ = ["unused_choices"]

#: All that settings may be which decide what others mean; numbers are as usual. Their order is that of reasons.
_EVERY: dict[str, tuple[Any, ...]] = {
    "qat_start": ("trained", "scratch"),
    "distillation": tuple(DISTILLATION_SETTINGS),
    "pruning": PRUNING_METHODS,
    "pruning_backend": ("edgesearch", "vai"),
    "quantization": ("ptq", "qat"),
    "bits": (5, 8, 16),
    "quantization_backend": ("edgesearch", "nndct"),
    "algorithm": QAT_ALGORITHMS,
    **{name: tuple(Space.model_fields[name].default) for name in ("alpha", "gamma")},
    "ratio": (0.5,),
}


def unused_choices(space: Space) -> list[str]:
    """A sentence for each choice that decides which others count, naming those that were given and do not."""
    sentences = [*_of_students(space), *_of_compression(space), *_of_ptq(space)]
    for name, choices in space:
        if isinstance(choices, Range) and choices.low < choices.high and choices.size == 1:
            sentences.append(
                f"`{name}` in [space] has a step of {choices.step:g} from {choices.low:g} to {choices.high:g}, so that "
                f"{choices.low:g} is all that it is"
            )
    return sentences


def _of_students(space: Space) -> Iterator[str]:
    """Of settings that [space] gives to all students."""
    alone = {
        "width": {name for name in space.students if name != STAGED},
        "stem": set(TORCHVISION_STUDENTS),
        "head": {name for name in space.students if name in STUDENTS_WITH_HEAD or find_staged(name)},
        "adapt": {name for name in space.students if space.choices(name, "weights")},
    }
    unread, own = [], []
    for name in filter(lambda name: _is_given(space, name), ("width", "input_size", "stem", "head", "weights", "adapt")):
        having = alone.get(name, set(space.students)).intersection(space.students)
        if not having:
            unread.append(name)
        elif all(getattr(space.student.get(student), name, None) is not None for student in having):
            own.append(name)
    if unread == ["adapt"]:
        yield "`adapt` in [space] decides nothing, since no student has `weights`"
    elif unread:
        yield _sentence(unread, "students", space)
    if own:
        yield f"{_listed(own)} in [space] decides nothing, since each student has its own in [space.student]"


def _of_compression(space: Space) -> Iterator[str]:
    """Of settings that no candidate reads, by the choice because of which; then of values that none of them has."""
    found, idle = reach(space), dict[str, list[str]]()
    for name in FIELDS:
        if _is_given(space, name) and not _counts(space, found, name):
            idle.setdefault(_cause(space, name), []).append(name)
    for cause, names in idle.items():
        yield _sentence(names, cause, space)
    told = {name for names in idle.values() for name in names}
    for name in FIELDS:
        if name in NUMBERS or name in told or not _is_given(space, name):
            continue
        for value in getattr(space, name):
            if not _has(found, name, value):
                cause = _cause(space, name, value)
                why = f", since no choice of `{cause}` = {_shown(space, cause)} goes with it" if cause else ""
                yield f"no candidate of [space] has `{name}` {value!r}{why}"


def _of_ptq(space: Space) -> Iterator[str]:
    """Of what is quantized by PTQ though only QAT was asked for."""
    if "ptq" in space.quantization or "qat" not in reach(space).had["quantization"]:
        return
    only: dict[str, list[Any]] = {
        "bits": [each for each in space.bits if each == 16],
        "algorithm": [each for each in space.algorithm if each not in QAT_ALGORITHMS],
        "pruning": [each for each in space.pruning if each in SPARSE_METHODS],
    }
    for name, values in only.items():
        if values:
            yield f"`{name}` {values[0]!r} of [space] knows ptq only: its candidates are quantized by ptq, not by qat"


def _counts(space: Space, found: Reach, name: str) -> bool:
    """Whether some candidate reads the setting, and is another one by what was chosen."""
    if name not in found.asked:
        return False
    choices, usual = getattr(space, name), _usual(name)
    return name not in NUMBERS or {least(choices), most(choices)} == {usual} or bool(found.had[name] - {usual})


def _has(found: Reach, name: str, value: Any) -> bool:
    return value == _usual(name) or value in found.had[name]


def _cause(space: Space, name: str, value: Any = None) -> str:
    """The setting with other choices of which the setting would count, or a candidate have this value of it; "" for none."""
    for other, every in _EVERY.items():
        choices = every if other in NUMBERS else (*getattr(space, other), *every)
        wider = space.model_copy(update={other: choices})
        if other != name and _counts(wider, found := reach(wider), name) and (value is None or _has(found, name, value)):
            return other
    return ""


def _sentence(names: Sequence[str], cause: str, space: Space) -> str:
    if not cause:
        return f"{_listed(names)} in [space] decides nothing beside its other choices"
    return f"{_listed(names)} in [space] decides nothing, since no choice of `{cause}` = {_shown(space, cause)} has it"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(space: Space, name: str) -> str:
    choices = getattr(space, name)
    return f"{choices.low:g} to {choices.high:g}" if isinstance(choices, Range) else str(list(choices))


def _usual(name: str) -> Any:
    """What a candidate has that does not read the setting."""
    part, called = FIELDS[name]
    return part.model_fields[called].default


def _is_given(space: Space, name: str) -> bool:
    """Whether the setting was chosen; a single granularity may be the DPU's, which is filled in."""
    if name == "granularity":
        return len(space.granularity or ()) > 1
    return bool(getattr(space, name) != Space.model_fields[name].default)
