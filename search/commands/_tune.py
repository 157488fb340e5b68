"""`edgesearch tune`: a better recipe for one network of a study."""

from __future__ import annotations

import shlex
from pathlib import Path
from statistics import fmean

import click
from rich.console import Console
from rich.table import Table

from edgesearch.errors import StudyError
from edgesearch.files import expanded
from edgesearch.search.commands._next import given, home_option
from edgesearch.search.commands._outputs import check_output
from edgesearch.search.commands._show import make_console
from edgesearch.search.library import TriedRecipe, TunedRecipe
from edgesearch.search.library import tune as tune_recipe
from edgesearch.search.study import StudyFile

#: Rows of the table.
_SHOWN = 10
#: Options that `optimize` does not have, or that are given to it otherwise.
_OF_TUNE = ("samples", "minutes", "confirm", "distillation", "output", "overwrite", "home")


def tune(
    *,
    target: str,
    study: str,
    samples: int,
    minutes: float | None,
    confirm: int,
    distillation: str | None,
    workers: int | None,
    gpus_per_stage: float | None,
    threads_per_stage: int,
    seed: int | None,
    output: Path | None,
    overwrite: bool,
    store: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Tune, print what was tried, and write the copy; returns the exit code."""
    StudyFile.load(study)
    file = expanded(study, "study file", StudyError) if Path(study).suffix == ".toml" else None
    place = output or (file or Path(f"{study}.toml")).with_name(f"{Path(study).stem if file else study}_tuned.toml")
    if place.suffix != ".toml":
        raise StudyError(f"-o {str(place)!r} would be no study file to `optimize`; give a name that ends in .toml")
    check_output(place, "-o", {"the study": file})
    if place.exists() and not overwrite:
        raise StudyError(f"{str(place)!r} is there already; give -o another name, or --overwrite")
    tuned = tune_recipe(
        study,
        target,
        home,
        samples=samples,
        confirm=confirm,
        workers=workers,
        seconds=None if minutes is None else 60 * minutes,
        seed=seed,
        store=store,
        storage=storage,
        threads=threads_per_stage,
        gpus_per_stage=gpus_per_stage,
        distillation=distillation,
        output=place,
        progress=lambda line: click.echo(line, err=True),
    )
    _print_tried(tuned, make_console())
    click.echo(_verdict(tuned))
    if tuned.is_better:
        tuned.write(place, overwrite=overwrite)
        click.echo(f"written: {place}")
    next_file = str(place) if tuned.is_better else study
    same = given(without=_OF_TUNE)
    click.echo(f"next: {shlex.join(['edgesearch', 'optimize', next_file, *same, *home_option(home)])}")
    return 0


def _print_tried(tuned: TunedRecipe, console: Console) -> None:
    click.echo(
        f"study {tuned.study}: {tuned.target}, {len(tuned.tried)} recipes tried, the whole training has {tuned.epochs} epochs"
    )
    table = Table("", *(name.replace("_", " ") for name in tuned.own), "epochs", "accuracy", box=None)
    for row in tuned.tried[:_SHOWN]:
        table.add_row(_mark(tuned, row), *map(_number, row.settings.values()), str(row.epochs), _accuracy(row))
    console.print(table)
    if len(tuned.tried) > _SHOWN:
        click.echo(f"and {len(tuned.tried) - _SHOWN} more, stopped earlier or less accurate")


def _mark(tuned: TunedRecipe, row: TriedRecipe) -> str:
    if row.settings == tuned.own:
        return "the file's own"
    return "best" if row.settings == tuned.best else ""


def _accuracy(row: TriedRecipe) -> str:
    return "failed" if row.failure else f"{row.accuracy:.2%}"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _verdict(tuned: TunedRecipe) -> str:
    own = f"the file's own recipe: {_seeds(tuned.own_accuracies)}"
    if tuned.best == tuned.own:
        return f"{own}; no other recipe was better, so it is kept and nothing is written"
    best = f"{own}; the best one: {_seeds(tuned.best_accuracies)}"
    gain, noise = tuned.gain.value, tuned.gain.noise
    points = f"{100 * gain:+.2f} points"
    if noise is None:
        words = f"gain {points} from one seed each, which may be luck (--confirm)"
    else:
        fresh = len(tuned.best_accuracies) > 1
        words = f"gain {points}{' with seeds that it was not chosen by' if fresh else ''}, noise {100 * noise:.2f}"
    why = "no gain" if gain <= 0 else "within noise"
    ending = "" if tuned.is_better else f": {why}, so the file's own is kept and nothing is written"
    return f"{best}\n{words}{ending}"


def _seeds(accuracies: tuple[float, ...]) -> str:
    mean = fmean(accuracies)
    return f"{mean:.2%}" + (f" ({', '.join(f'{each:.2%}' for each in accuracies)})" if len(accuracies) > 1 else "")
