"""`edgesearch export`: a trial as files that can be deployed, with a manifest that ties them together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from edgesearch.board_eval import Compiler
from edgesearch.search.library import Study, StudyRecord


def export(
    *,
    trial: int | None,
    knee: bool,
    min_accuracy: float | None,
    min_fps: float | None,
    front: bool,
    output: Path,
    compiler: Compiler | None,
    study_name: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Write the chosen trials below `output`; returns the exit code."""
    ways = {"--trial": trial is not None, "--knee": knee, "--front": front, "--min-accuracy or --min-fps": False}
    ways["--min-accuracy or --min-fps"] = min_accuracy is not None or min_fps is not None
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) != 1:
        raise click.UsageError(f"say which trial in one way ({', '.join(ways)}); given: {', '.join(given) or 'none'}")
    study = Study.load(study_name, home, storage=storage)
    for record in _select(study, trial=trial, at_knee=knee, min_accuracy=min_accuracy, min_fps=min_fps):
        folder = record.export(output, compiler=compiler, note=click.echo)
        click.echo(f"trial {record.number}  {record.candidate}  ->  {folder}")
    return 0


def _select(
    study: Study, *, trial: int | None, at_knee: bool, min_accuracy: float | None, min_fps: float | None
) -> Iterable[StudyRecord]:
    if trial is not None:
        return [study.record(trial)]
    front = study.front()
    if at_knee:
        return [front.knee()]
    if min_accuracy is not None or min_fps is not None:
        return [front.best(min_accuracy=min_accuracy, min_fps=min_fps)]
    return front.members()
