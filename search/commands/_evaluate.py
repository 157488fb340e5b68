"""`edgesearch evaluate`: one candidate through the whole pipeline, in a child process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edgesearch.search.commands._networks import read_candidate
from edgesearch.search.engine import describe_metrics
from edgesearch.search.library import Study


def evaluate(
    *,
    candidate: Path,
    study: str,
    test: bool,
    retry_failed: bool,
    seed: int | None,
    threads_per_stage: int,
    board: str | None,
    store: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Run the missing stages of one candidate and print its scores; returns the exit code."""
    settings = read_candidate(candidate)
    opened = Study.open(study, home, storage=storage, seed=seed, board=board, store=store, threads=threads_per_stage)
    click.echo(f"with data, teacher and recipes of study {opened.name!r} ({opened.settings.data.name})")
    with _looking_into(candidate.resolve().parent):
        figures = opened.evaluate(settings, test=test, retry_failed=retry_failed, progress=click.echo)
    remark = f"  (not deployable: {settings.hindrance})" if settings.hindrance else ""
    click.echo(describe_metrics(figures) + remark)
    if "test_accuracy" in figures:
        before = figures["float_test_accuracy"]
        click.echo(f"test accuracy {figures['test_accuracy']:.2%}" + ("" if before is None else f" (float {before:.2%})"))
    return 0


@contextmanager
def _looking_into(folder: Path) -> Iterator[None]:
    """Code by import path is looked for there, too, behind the study's folder; processes of stages look where this one does."""
    path = sys.path
    sys.path = [*path, str(folder)]
    try:
        yield
    finally:
        sys.path = path
