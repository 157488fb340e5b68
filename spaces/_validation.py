"""pydantic's errors as one sentence each: the key, what it was given and what was expected."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from edgesearch.plugins import is_import_path

#: Kinds of problems of values that are no table where one is expected.
_TABLE = ("model_type", "model_attributes_type", "dict_type")


def explain(error: ValidationError, known: dict[str, list[str]] | None = None) -> str:
    """All problems of a validation error, joined by semicolons; `known` maps a table, without
    places in lists, to its keys, for suggestions.
    """
    return "; ".join(_explain_one(dict(p), known or {}) for p in error.errors() if not _is_echo(dict(p)))


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
    elif kind in _TABLE:
        message = "a table"
    elif kind == "too_short":
        message = f"at least {context['min_length']} value"
    return f"{key} = {value!r}, expected {message}"


def name_or_path(name: str, known: tuple[str, ...]) -> str:
    """`name`, if it is known or an import path; else a ValueError that says what is expected."""
    if name not in known and not is_import_path(name):
        raise ValueError(
            f"{name!r} is unknown; expected one of {', '.join(known)} or an import path such as my_pkg.module:Thing"
        )
    return name
