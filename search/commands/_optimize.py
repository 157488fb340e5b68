"""`edgesearch optimize`: from a study file to a front, its report and its test scores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import optuna
from rich.console import Console
from sqlalchemy import make_url

from edgesearch.board_eval import BoardProfile, load_profile
from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import Conditions, DataSet, Estimator, Stage, Store, load_data, plan
from edgesearch.search.commands._dry_run import describe_cost
from edgesearch.search.commands._preflight import study_findings
from edgesearch.search.commands._show import make_console, print_front, save_report
from edgesearch.search.engine import Engine, Pool, StageRunner, Summary, make_pool, make_progress, run_stages
from edgesearch.search.study import Home, Lease, StudyFile, create_or_resume, hold_lease, load_study, open_storage


@dataclass(frozen=True)
class Prepared:
    """A study whose data, board and students were checked."""

    settings: StudyFile
    data: DataSet
    board: BoardProfile
    conditions: Conditions
    estimator: Estimator


def prepare_study(settings: StudyFile, *, threads: int = 1) -> Prepared:
    """Read the data and the board profile and lower every student, before anything is trained or written."""
    data = load_data(settings.data)
    board = load_profile(settings.board)
    estimator = Estimator(channels=data.channels, classes=len(data.classes), board=board)
    conditions = Conditions.of(
        data,
        settings.pipeline,
        board=board.model_dump(mode="json", exclude={"origin"}),
        granularity=16,
        seed=settings.seed,
        threads=threads,
    )
    return Prepared(settings, data, board, conditions, estimator)


def check_students(prepared: Prepared) -> list[str]:
    """Sentences on students of the space that the DPU cannot run; raises when that is all of them."""
    from edgesearch.spaces import Candidate

    space = prepared.settings.space
    if space is None:
        return []
    errors: list[EdgesearchError] = []
    for name in space.students:
        try:
            prepared.estimator.estimate(Candidate(student=space.narrowest(name)))
        except EdgesearchError as error:
            errors.append(error)
    if len(errors) == len(space.students):
        raise errors[0]
    return [str(error) for error in errors]


def optimize(
    *,
    study: str,
    trials: int | None,
    name: str | None,
    workers: int | None,
    ray_address: str | None,
    gpus_per_stage: float,
    threads_per_stage: int,
    seed: int | None,
    retry_failed: bool,
    dry_run: bool,
    board: str | None,
    storage: str | None,
    home: Path,
) -> int:
    """Run or resume a study; returns the exit code."""
    console = make_console()
    overrides = {"name": name, "seed": seed, "board": board}
    settings = load_study(study)
    settings = StudyFile.model_validate(settings.to_json() | {key: v for key, v in overrides.items() if v is not None})
    wanted = trials or (settings.search.trials if settings.space else len(settings.candidates))
    prepared = prepare_study(settings, threads=threads_per_stage)
    for sentence in check_students(prepared):
        click.echo(f"left out: {sentence}", err=True)
    for sentence in study_findings(settings, prepared.data):
        click.echo(sentence, err=True)
    place = Home(home)
    if dry_run:
        click.echo(describe_cost(prepared.settings, prepared.data, prepared.conditions, prepared.estimator, place, wanted))
        return 0
    place.prepare()
    database = open_storage(storage or place.database)
    with hold_lease(database, settings.name, folder=home) as lease:
        opened = create_or_resume(database, settings)
        _refuse_other_data(opened, prepared.data)
        pool = make_pool(_default_workers() if workers is None else workers, address=ray_address, gpus_per_job=gpus_per_stage)
        try:
            summary = _run(prepared, opened, place, pool, console, wanted, lease=lease, retry_failed=retry_failed)
            _test_front(prepared, opened, place, pool)
        finally:
            pool.close()
        click.echo(f"study {settings.name}: {_in_words(summary)}")
        print_front(opened, console)
        click.echo(f"report: {save_report(opened, place)}")
    where = f"--study {settings.name}" + (f" --home {home}" if home != Path("runs") else "")
    where += f" --storage {make_url(storage).render_as_string(hide_password=True)}" if storage else ""
    click.echo(f"next: edgesearch export {where} --knee -o DIR   or   edgesearch dashboard {where}")
    return 0


def _default_workers() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _in_words(summary: Summary) -> str:
    words = [f"{summary.finished} trials finished now"]
    if summary.failed:
        words.append(f"{summary.failed} failed")
    if summary.rejected:
        words.append(f"{summary.rejected} candidates rejected before training")
    if summary.repeats:
        words.append(f"{summary.repeats} repeats answered from the record")
    return ", ".join(words)


def _refuse_other_data(study: optuna.Study, data: DataSet) -> None:
    known = study.user_attrs.get("data_fingerprint")
    if known is None:
        study.set_user_attr("data_fingerprint", data.fingerprint)
    elif known != data.fingerprint:
        raise StudyError(
            f"the images of data set {data.name!r} are not those that study {study.study_name!r} was started with; "
            "restore them, or give the study on the new images another --name"
        )


def _run(
    prepared: Prepared,
    study: optuna.Study,
    place: Home,
    pool: Pool,
    console: Console,
    wanted: int,
    *,
    lease: Lease,
    retry_failed: bool,
) -> Summary:
    progress = make_progress(console)
    with progress:
        engine = Engine(
            study=study,
            settings=prepared.settings,
            conditions=prepared.conditions,
            estimator=prepared.estimator,
            store=Store(place.store, warn=progress.note),
            pool=pool,
            progress=progress,
            logs=place.logs(prepared.settings.name),
            lease=lease,
            retry_failed=retry_failed,
        )
        return engine.run(wanted)


def _test_front(prepared: Prepared, study: optuna.Study, place: Home, pool: Pool) -> None:
    """Measure the front's members on the test images: the one time that these are read."""
    from edgesearch.search.study import pareto_front, read_study

    known: dict[str, Any] = dict(study.user_attrs.get("test_accuracy", {}))
    view = read_study(study)
    store = Store(place.store)
    stages: dict[str, Stage] = {}
    for record in pareto_front(view):
        artifact = store.get("quantized", record.artifacts["quantized"])
        if str(record.number) in known or artifact is None:
            continue
        stages[str(record.number)] = plan(record.candidate, prepared.settings.pipeline, prepared.conditions, last="tested")
    logs = place.logs(prepared.settings.name)
    run_stages(StageRunner(store=store, pool=pool, data=prepared.settings.data, logs=logs, note=click.echo), stages.values())
    for number, stage in stages.items():
        tested = store.get("tested", stage.key)
        if tested is not None:
            known[number] = tested.figures["test_accuracy"]
    study.set_user_attr("test_accuracy", known)
