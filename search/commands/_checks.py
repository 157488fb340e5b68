"""One line of `edgesearch doctor`: what was looked at, whether it is needed, and what was found or what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

import click

from edgesearch.errors import EdgesearchError

__all__ = ["Broken", "Check", "run_checks"]


class Broken(EdgesearchError):
    """What is there and does not work: red also where it need not be there."""


@dataclass(frozen=True)
class Check:
    """`run` returns what was found, and raises where it is not there: the error's sentence says what to do."""

    name: str
    run: Callable[[], str]
    #: Whether edgesearch does not work without it.
    needed: bool = True


def run_checks(checks: Iterable[Check]) -> bool:
    """Print a line for each check, green or red, or yellow for what need not be there; whether all that are needed passed.

    What is broken is red, and counts only where it is needed.
    """
    passed = True
    for check in checks:
        try:
            click.echo(f"  {click.style('ok      ', fg='green')} {check.name}: {check.run()}")
        except (EdgesearchError, ImportError, metadata.PackageNotFoundError, OSError, RuntimeError) as error:
            passed &= not check.needed
            is_red = check.needed or isinstance(error, Broken)
            mark = click.style("FAILED  ", fg="red") if is_red else click.style("absent  ", fg="yellow")
            click.echo(f"  {mark} {check.name}: {error}")
    return passed
