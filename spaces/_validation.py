"""pydantic's errors as one sentence each: the key, what it was given and what was expected."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError, known: dict[str, list[str]] | None = None) -> str:
    """All problems of a validation error, joined by semicolons; `known` maps a table to its keys, for suggestions."""
    return "; ".join(_explain_one(dict(problem), known or {}) for problem in error.errors())


def _explain_one(problem: dict[str, Any], known: dict[str, list[str]]) -> str:
    path = [part for part in problem["loc"] if not (isinstance(part, str) and "[" in part)]
    key = ".".join(str(part) for part in path) or "the table"
    value, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), known.get(".".join(map(str, path[:-1])), []), n=1)
        return f"unknown key {key} = {value!r}" + (f"; did you mean {near[0]}?" if near else "; remove it or correct its name")
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        return f"{key}: {context['error']}" if path else str(context["error"])
    message = problem["msg"].removeprefix("Input should be ")
    return f"{key} = {value!r}, expected {message}"
