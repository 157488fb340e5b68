"""What a study file says and nothing reads, which its author would take for done.

It is looked for in what somebody writes, and not in what is stored: earlier versions took it and passed over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from edgesearch.objectives import Recipe
from edgesearch.settings import Settings
from edgesearch.spaces import Candidate, Space, Student, StudentOverride

__all__ = ["unread_choices", "unread_overrides", "unread_recipes", "unread_students", "without_infinite"]

#: Of a candidate's tables, what each setting is of; "": all others.
_OWNERS = {
    "distillation": {"": "kind"},
    "pruning": {"": "method"},
    "quantization": {"start": "method", "fast_finetune": "backend"},
}
#: How training images are shown, which [train] decides for all that follows it.
_VIEWS = ("augmentation_strength", "mix", "mix_alpha")


def unread_recipes(tables: Mapping[str, Any], train: Recipe, **later: Recipe) -> str:
    """A sentence on what nothing reads of a study's recipes; or "".

    A teacher's that is trained already, and a way to show images that one of the `later` trainings has and `train` does not.
    A table with every key was written by a program, out of settings that somebody left as they were.
    """
    teacher = tables.get("teacher")
    if (
        isinstance(teacher, Mapping)
        and teacher.get("trained")
        and 0 < len(_given(teacher.get("recipe"))) < len(Recipe.model_fields)
    ):
        return "teacher.recipe trains nothing where teacher.trained = true takes weights as they are; remove one of them"
    for table, recipe in later.items():
        given = _given(tables.get(table))
        for name in _VIEWS if given < type(recipe).model_fields.keys() else ():
            asked, decided = getattr(recipe, name), getattr(train, name)
            if name in given and asked != decided:
                return (
                    f"{table}.{name} is {asked!r} and train.{name} {decided!r}; a study shows its training images in one way: "
                    "set it in [train] alone"
                )
    return ""


def _given(table: Any) -> set[str]:
    """The keys that somebody set."""
    return table.model_fields_set if isinstance(table, Recipe) else set(table or ())


def unread_students(students: Mapping[str, Student], space: Space | None) -> str:
    """A sentence on a setting that one of the students, by place in the study, or of the space's own tables lacks; or ""."""
    tables = {f"space.student.{name}": student for name, student in _overridden(space)}
    for place, student in (dict(students) | tables).items():
        for name, advice in student.unread.items():
            return f"{place}.{name} is {getattr(student, name)!r}, and {student.architecture} has no such choice; {advice}"
    return ""


def unread_choices(candidates: Mapping[str, Candidate]) -> str:
    """A sentence on a choice of one of the candidates, by place in the study, that was named and comes to nothing; or "".

    Its table does not name the method, kind or backend that it is a setting of, or a pruning has no ratio.
    """
    for place, candidate in candidates.items():
        whole, prefix = candidate.canonical(), f"{place}." if place else ""
        for table, owners in _OWNERS.items():
            asked: Settings = getattr(candidate, table)
            given = asked.model_fields_set
            for name in sorted(given):
                owner = owners.get(name, owners.get("", ""))
                is_lost = getattr(asked, name) != getattr(getattr(whole, table), name)
                if is_lost and owner and name != owner and owner not in given:
                    what = f"{prefix}{table}.{name} is {getattr(asked, name)!r}, and {prefix}{table}.{owner}"
                    return f"{what} is not there; give the {owner} that it is of"
        if whole.pruning.method != candidate.pruning.method:
            what = f"{prefix}pruning.method is {candidate.pruning.method!r}"
            return f"{what}, and it has no ratio above 0; give {prefix}pruning.ratio"
    return ""


def unread_overrides(space: Space | None) -> list[tuple[str, str]]:
    """Of the space's tables for one student each, the student's name and a setting that it lacks."""
    return [(name, setting) for name, student in _overridden(space) for setting in student.unread]


def without_infinite(limits: Mapping[str, float | None]) -> dict[str, float | None]:
    """A stored [constraints] without infinite limits, which earlier versions took."""
    return {name: limit for name, limit in limits.items() if limit != math.inf}


def _overridden(space: Space | None) -> Iterator[tuple[str, Student]]:
    """The students that have tables of their own, as these say."""
    for name, override in () if space is None else space.student.items():
        if isinstance(override, StudentOverride):
            stem: Literal["imagenet", "small"] = "imagenet" if "imagenet" in (override.stem or ()) else "small"
            yield name, Student(architecture=name, stem=stem, head=override.head or 0)
