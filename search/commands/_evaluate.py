"""`edgesearch evaluate`: one candidate through the whole pipeline, in a child process."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgesearch.errors import StudyError
from edgesearch.objectives import Stage, Store, plan
from edgesearch.search.commands._networks import read_candidate
from edgesearch.search.commands._optimize import prepare_study
from edgesearch.search.engine import StageRunner, describe_metrics, make_pool, run_stages
from edgesearch.search.study import Home, StudyFile, load_study, with_fingerprint


def evaluate(*, candidate: Path, study: str, test: bool, board: str | None, home: Path) -> int:
    """Run the missing stages of one candidate and print its scores; returns the exit code."""
    wanted = with_fingerprint(read_candidate(candidate)).canonical()
    settings = load_study(study)
    if board is not None:
        settings = StudyFile.model_validate(settings.to_json() | {"board": board})
    prepared = prepare_study(settings)
    if settings.teacher is None and wanted.distillation.kind in ("logit", "intermediate"):
        raise StudyError(
            f"{candidate} distils from a teacher, but study {settings.name!r} has no [teacher]; add one to the study"
        )
    estimate = prepared.estimator.estimate(wanted)
    place = Home(home)
    place.prepare()
    store = Store(place.store, warn=click.echo)
    measured = plan(wanted, settings.pipeline, prepared.conditions)
    click.echo(f"{wanted}: about {estimate['fps']:,.0f} FPS before training")
    last = measured
    if test:
        last = plan(wanted, settings.pipeline, prepared.conditions, last="tested")
    pool = make_pool(workers=0)
    try:
        runner = StageRunner(store=store, pool=pool, data=settings.data, logs=place.logs("evaluate"), note=click.echo)
        for stage in (*measured.walk(), *([last] if test else [])):
            _run(stage, runner)
    finally:
        pool.close()
    figures = store.get("measured", measured.key)
    assert figures is not None
    click.echo(
        describe_metrics(figures.figures) + ("" if wanted.deployable else "  (not deployable: the DPU runs 8 bits only)")
    )
    tested = store.get("tested", last.key) if test else None
    if tested is not None:
        click.echo(f"test accuracy {tested.figures['test_accuracy']:.2%}")
    return 0


def _run(stage: Stage, runner: StageRunner) -> None:
    if runner.artifact(stage) is not None:
        click.echo(f"  {stage.kind:<10} from the store")
        return
    started = time.perf_counter()
    failed = [end.failure for end in run_stages(runner, [stage]) if end.failure is not None]
    if failed:
        raise StudyError(failed[0])
    click.echo(f"  {stage.kind:<10} {time.perf_counter() - started:.1f} s")
