"""One line of `edgesearch doctor`: what was looked at, whether it is needed, and what was found or what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

import click

from edgesearch.errors import EdgesearchError

__all__ = ["Broken", "Check", "run_checks"]

_COLOURS = {"ok": "green", "FAILED": "red", "absent": "yellow"}


class Broken(EdgesearchError):
    """What is there and does not work: red also where it need not be there."""


@dataclass(frozen=True)
class Check:
    """`run` returns what was found, and raises where it is not there: the error's sentence says what to do."""

    name: str
    run: Callable[[], str]
    #: Whether edgesearch does not work without it.
    needed: bool = True


def run_checks(checks: Iterable[Check], *, as_json: bool = False) -> bool:
    """Print a line for each check, green or red, or yellow for what need not be there; whether all that are needed passed.

    What is broken is red, and counts only where it is needed. `as_json` prints one list in the end.
    """
    passed, found = True, []
    for check in checks:
        mark, text = _run(check)
        passed &= mark == "ok" or not check.needed
        found.append({"check": check.name, "result": mark, "needed": check.needed, "text": text})
        if not as_json:
            click.echo(f"  {click.style(f'{mark:<8}', fg=_COLOURS[mark])} {check.name}: {text}")
    if as_json:
        click.echo(json.dumps(found, indent=1))
    return passed


def _run(check: Check) -> tuple[str, str]:
    try:
        return "ok", check.run()
    except (EdgesearchError, ImportError, metadata.PackageNotFoundError, OSError, RuntimeError) as error:
        return "FAILED" if check.needed or isinstance(error, Broken) else "absent", str(error)
