"""pydantic's errors as one sentence each: the key, what it was given and what was expected."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

__all__ = ["explain"]

#: Kinds of problems of values that are no table where one is expected.
_TABLE = ("model_type", "model_attributes_type", "dict_type")
#: The types of a plain value, each of which pydantic complains about, and the kind of the problem that they are together.
_PLAIN = frozenset({"bool", "int", "float", "str"})
_NO_PLAIN = "no_plain_value"


def explain(error: ValidationError, known: dict[str, list[str]] | None = None) -> str:
    """All problems of a validation error, joined by semicolons; `known` maps a table, without
    places in lists, to its keys, for suggestions.
    """
    problems = _without_alternatives([dict(problem) for problem in error.errors()])
    return "; ".join(_explain_one(problem, known or {}) for problem in problems if not _is_echo(problem))


def _without_alternatives(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The problems, those of one value that is none of a plain value's types as a single one."""
    tried: dict[tuple[Any, ...], set[Any]] = {}
    for problem in problems:
        tried.setdefault(problem["loc"][:-1], set()).add(problem["loc"][-1] if problem["loc"] else None)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for problem in problems:
        place = problem["loc"]
        if place and place[-1] in _PLAIN and tried[place[:-1]] >= _PLAIN:
            problem, place = problem | {"loc": place[:-1], "type": _NO_PLAIN}, (*place[:-1], _NO_PLAIN)
        else:
            place = (*place, problem["type"])
        found.setdefault(place, problem)
    return list(found.values())


def _is_echo(problem: dict[str, Any]) -> bool:
    """Whether it follows from another problem: the other form of a setting that has two, a list left without its bad items."""
    value, kind = problem["input"], problem["type"]
    if kind == "too_short":
        return bool(value)
    in_union = any(isinstance(part, str) and "[" in part for part in problem["loc"])
    return in_union and ((kind == "tuple_type" and isinstance(value, dict)) or (kind in _TABLE and not isinstance(value, dict)))


def _explain_one(problem: dict[str, Any], known: dict[str, list[str]]) -> str:
    path = [part for part in problem["loc"] if not (isinstance(part, str) and "[" in part)]
    key = ".".join(str(part) for part in path) or "the table"
    value, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        table = ".".join(str(part) for part in path[:-1] if not isinstance(part, int))
        near = difflib.get_close_matches(str(path[-1]), known.get(table, []), n=1)
        return f"unknown key {key} = {value!r}" + (f"; did you mean {near[0]}?" if near else "; remove it or correct its name")
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        return f"{key}: {context['error']}" if path else str(context["error"])
    message = problem["msg"].removeprefix("Input should be ")
    if kind == "tuple_type":
        message = "a list of values, or a table with low and high" if len(path) < len(problem["loc"]) else "a list of values"
    elif kind == _NO_PLAIN:
        message = "a number, a truth value or a text"
        if isinstance(value, list | tuple):
            message += "; give several values as parameters of their own, or as a text that the class splits"
    elif kind in _TABLE:
        message = "a table"
    elif kind == "too_short":
        message = f"at least {context['min_length']} value"
    return f"{key} = {value!r}, expected {message}"
