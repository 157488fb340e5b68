"""`pareto`, `report` and `dashboard`: what a study found, for reading."""

from __future__ import annotations

from pathlib import Path

import click
import optuna
from rich.console import Console

from edgesearch.errors import StudyError
from edgesearch.search.report import front_csv, front_json, print_table
from edgesearch.search.study import (
    Home,
    StudyView,
    nearest_misses,
    open_storage,
    open_study,
    pareto_front,
    read_study,
    study_names,
)

#: Columns of a table that is written to a file or a pipe.
_FILE_WIDTH = 150


def find_study(study_name: str | None, storage: str | None, home: Path) -> optuna.Study:
    """The named study, or the one whose last trial is the newest; raises StudyError when there is none."""
    place = Home(home)
    if storage is None and not (home / "studies.db").exists():
        raise StudyError(f"there are no studies in {str(home)!r}; run `edgesearch optimize` first, or give --home")
    database = open_storage(storage or place.database)
    if study_name is not None:
        return open_study(database, study_name)
    names = study_names(database)
    if not names:
        raise StudyError(f"there are no studies in {storage or str(home)!r}; run `edgesearch optimize` first")
    studies = [open_study(database, name) for name in names]
    return max(studies, key=_last_change)


def _last_change(study: optuna.Study) -> float:
    moments = [t.datetime_complete or t.datetime_start for t in study.get_trials(deepcopy=False)]
    return max((moment.timestamp() for moment in moments if moment is not None), default=0.0)


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for a front's table where output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def print_front(study: optuna.Study, console: Console) -> None:
    """The front as a table, or the nearest misses when nothing is feasible."""
    view = read_study(study)
    front = pareto_front(view)
    if front:
        print_table(view, front, console)
        return
    misses = nearest_misses(view.records, view.constraints, limit=5)
    if not misses:
        click.echo(f"study {view.name} has no finished trial yet")
        return
    click.echo("no trial keeps every constraint; the nearest:")
    for miss in misses:
        shown = ", ".join(f"{name} missed by {amount:g}" for name, amount in miss.record.violations.items())
        click.echo(f"  trial {miss.record.number}  {miss.record.recipe}  {shown}")


def save_report(study: optuna.Study, place: Home, output: Path | None = None) -> Path:
    """Write the study's report and return its path."""
    from edgesearch.search.report import write_report

    view = read_study(study)
    path = output or place.report(view.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(view, path)
    except OSError as error:
        raise StudyError(f"the report cannot be written to {path}: {error.strerror}; give another -o") from error
    return path


def pareto(*, style: str, study_name: str | None, storage: str | None, home: Path) -> int:
    """Print the front; returns the exit code."""
    study = find_study(study_name, storage, home)
    view: StudyView = read_study(study)
    if style == "table":
        print_front(study, make_console())
    else:
        click.echo((front_json if style == "json" else front_csv)(view, pareto_front(view)).rstrip("\n"))
    return 0


def report(*, output: Path | None, study_name: str | None, storage: str | None, home: Path) -> int:
    """Write the report; returns the exit code."""
    study = find_study(study_name, storage, home)
    click.echo(str(save_report(study, Home(home), output)))
    return 0


def dashboard(*, port: int, study_name: str | None, storage: str | None, home: Path) -> int:
    """Serve the dashboard until it is stopped; returns the exit code."""
    from edgesearch.search.report import serve_dashboard

    study = find_study(study_name, storage, home)
    serve_dashboard(storage or Home(home).database, study.study_name, port=port)
    return 0
