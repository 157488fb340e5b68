"""`pareto`, `report` and `dashboard`: what a study found, for reading."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from edgesearch.errors import StudyError
from edgesearch.files import write_atomically
from edgesearch.search.library import Front, Study
from edgesearch.search.report import (
    LEGEND,
    board_note,
    certainty_note,
    front_csv,
    front_json,
    missed,
    print_table,
    study_of,
    why_no_front,
    write_front_svg,
    write_results,
)
from edgesearch.search.study import nearest_misses

#: How the study beside results begins.
_OF_RESULTS = "# The study of the results beside it, as it was then."
#: Columns of a table that is written to a file or a pipe.
_FILE_WIDTH = 150


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for a front's table where output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def print_front(front: Front, console: Console) -> None:
    """The front as a table, or what happened, with the nearest misses, when nothing is on it.

    A terminal is also told what the table's words mean; a file or a pipe only what a mark of a board means, where it has one.
    """
    view = front.view
    if len(front):
        print_table(view, list(front), console)
        if console.is_terminal:
            console.print(Text(f"\n{LEGEND}\n{certainty_note(view, front)}".rstrip(), style="dim"))
        elif note := board_note(front):
            click.echo(note)
        return
    misses = nearest_misses(view.records, view.constraints, limit=5)
    click.echo(why_no_front(view) + ("; the nearest trials:" if misses else ""))
    for miss in misses:
        click.echo(f"  trial {miss.record.number}  {miss.record.recipe}  {missed(miss)}")


def pareto(*, style: str, picture: Path | None, study_name: str | None, storage: str | None, home: Path) -> int:
    """Print the front, and draw it where `picture` says; returns the exit code."""
    front = Study.load(study_name, home, storage=storage).front()
    if picture is not None:
        write_front_svg(front.view, picture)
    if style == "table":
        print_front(front, make_console())
    else:
        click.echo((front_json if style == "json" else front_csv)(front.view, list(front)).rstrip("\n"))
    return 0


def report(*, output: Path | None, study_name: str | None, storage: str | None, home: Path) -> int:
    """Write the report; returns the exit code."""
    click.echo(str(Study.load(study_name, home, storage=storage).report(output)))
    return 0


def results(*, studies: tuple[str, ...], output: Path, manifests: bool, storage: str | None, home: Path) -> int:
    """Write the results of one or several studies into a folder, and the manifests of their fronts if asked for; returns the
    exit code.
    """
    twice = next((name for place, name in enumerate(studies) if name in studies[:place]), None)
    if twice is not None:
        raise StudyError(f"study {twice!r} is given twice, and would count as two runs; name every study once")
    loaded = [Study.load(name, home, storage=storage) for name in studies or (None,)]
    shown = loaded[0].view()
    if not any(record.is_complete for record in shown.records):
        raise StudyError(f"study {shown.name!r} has no complete trial, so that it has no results yet")
    members = [record for study in loaded for record in study.front()] if manifests else []
    texts = {f"{record.study.name}-{record.number:04d}.json": json.dumps(record.manifest(), indent=1) for record in members}
    runs = [study.results() for study in loaded]
    toml = f"{_OF_RESULTS}\n{study_of(runs[0]).to_toml()}"
    _refuse_own_study(output / "study.toml")
    write_results(output / "results.json", runs)
    click.echo(str(output / "results.json"))
    _write(output / "study.toml", toml)
    click.echo(str(output / "study.toml"))
    write_front_svg(shown, output / "front.svg", tested=True)
    click.echo(str(output / "front.svg"))
    for name, text in texts.items():
        _write(output / "manifests" / name, text + "\n")
        click.echo(str(output / "manifests" / name))
    return 0


def _refuse_own_study(path: Path) -> None:
    """Raise StudyError where a study file of the user's own would be lost."""
    try:
        is_own = path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_OF_RESULTS)
    except OSError as error:
        raise StudyError(f"{path} cannot be read ({error.strerror or error}); name another folder") from error
    if is_own:
        raise StudyError(f"{path} is a study of your own, whose place that of the results would take; name another folder")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise StudyError(f"{path} cannot be written ({error.strerror or error}); name another folder") from error


def dashboard(*, port: int, study_name: str | None, storage: str | None, home: Path) -> int:
    """Serve the dashboard until it is stopped; returns the exit code."""
    from edgesearch.search.report import serve_dashboard

    study = Study.load(study_name, home, storage=storage)
    serve_dashboard(storage or study.home.database, study.name, port=port)
    return 0
