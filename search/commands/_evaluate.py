"""`edgesearch evaluate`: one candidate through the whole pipeline, in this process."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from edgesearch.errors import StudyError
from edgesearch.objectives import Stage, Store, plan
from edgesearch.search.commands._networks import read_candidate
from edgesearch.search.commands._optimize import prepare_study
from edgesearch.search.engine import Job, describe_metrics, run_job
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
    for stage in (*measured.walk(), *([last] if test else [])):
        _run(stage, settings, store, place)
    figures = store.get("measured", measured.key)
    assert figures is not None
    click.echo(
        describe_metrics(figures.figures) + ("" if wanted.deployable else "  (not deployable: the DPU runs 8 bits only)")
    )
    tested = store.get("tested", last.key) if test else None
    if tested is not None:
        click.echo(f"test accuracy {tested.figures['test_accuracy']:.2%}")
    return 0


def _run(stage: Stage, settings: StudyFile, store: Store, place: Home) -> None:
    if store.get(stage.kind, stage.key) is not None:
        click.echo(f"  {stage.kind:<10} from the store")
        return
    started = time.perf_counter()
    log = place.logs("evaluate") / f"{stage.kind}-{stage.key[:16]}.log"
    job = Job(stage=stage.to_json(), data=settings.data.model_dump(mode="json"), store=str(store.root), log=str(log), threads=0)
    result = run_job(asdict(job))
    if result["outcome"] != "done":
        raise StudyError(f"stage {stage.kind}: {result['message']} (log: {log})")
    click.echo(f"  {stage.kind:<10} {time.perf_counter() - started:.1f} s")
