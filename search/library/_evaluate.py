"""One candidate through the whole pipeline of a study, in a child process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgesearch.errors import SpaceError, StudyError
from edgesearch.objectives import Stage, teaching_figures
from edgesearch.search.engine import StageRunner, make_pool, run_stages
from edgesearch.search.library._findings import normalisation_findings
from edgesearch.search.library._inputs import Inputs, check_code, check_teacher, check_vitis
from edgesearch.search.library._starts import fetch_weights
from edgesearch.search.library._stores import study_store
from edgesearch.search.study import Home, is_worse_teacher, teacher_sentence, unread_choices, unread_students
from edgesearch.spaces import Candidate

if TYPE_CHECKING:
    import optuna


# Long for its arguments, and for what is told of them.
def evaluate_candidate(
    inputs: Inputs,
    home: Home,
    candidate: Candidate,
    *,
    test: bool,
    note: Callable[[str], None],
    stored: optuna.Study | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """The candidate's figures; with `test` also test_accuracy and float_test_accuracy.

    Stages that failed before, and would fail again, are tried again with `retry_failed`.
    Stages that the store has are not run again; it is the one that the `stored` study was run with, where the settings name
    none. Raises StudyError when a stage fails, with its reason and its log, and before anything is trained PluginError for code
    that cannot be imported, SpaceError for starting weights of another network and for settings that nothing reads, and
    ToolchainMissing where it asks for packages of Vitis AI's that are not there.
    """
    if not isinstance(candidate, Candidate):
        raise StudyError(
            f"the candidate is of type {type(candidate).__name__}, expected a Candidate; Candidate(student=Student(...))"
        )
    if unread := unread_students({"student": candidate.student}, None) or unread_choices({"": candidate}):
        raise SpaceError(f"the candidate: {unread}")
    candidate = inputs.complete(candidate)
    estimate = inputs.estimator.estimate(candidate)
    measured = inputs.plan(candidate)
    check_code(inputs.settings, candidate)
    if candidate.distillation.kind == "intermediate":  # which the study may leave out
        check_teacher(inputs, candidate)
    if packages := check_vitis(inputs.settings, candidate):
        inputs = inputs.on_packages(packages)
        measured = inputs.plan(candidate)
    fetch_weights(inputs.settings, note, [candidate])
    teacher = inputs.settings.teacher if candidate.distillation.needs_teacher else None
    for student in (candidate.student, *([] if teacher is None else [teacher])):
        for sentence in normalisation_findings(student, inputs.settings, inputs.data):
            note(sentence)
    home.prepare()
    store = study_store(inputs.settings, home, stored=stored, warn=note)
    speed = f"about {estimate['fps']:,.0f} FPS before training" if "fps" in estimate else "FPS: measured by the board"
    note(f"{candidate}: {speed}")
    stages = [*measured.walk(), *([inputs.plan(candidate, last="tested")] if test else [])]
    if retry_failed:
        for stage in stages:
            store.forget_failure(stage.kind, stage.key)
    settings = inputs.settings
    pool = make_pool(workers=0)
    try:
        logs = home.logs("evaluate")
        runner = StageRunner(
            store=store,
            pool=pool,
            data=settings.data,
            logs=logs,
            note=note,
            folder=settings.folder,
            vitis=settings.vitis,
        )
        for stage in stages:
            _run(stage, runner, note)
    finally:
        pool.close()
    walked = [stage for stage in measured.walk() if stage.kind in ("teacher", "student", "logits")]
    found = {stage.key: artifact for stage in walked if (artifact := runner.artifact(stage)) is not None}
    figures: dict[str, Any] = dict(teaching_figures(walked, found))
    for stage in (measured, stages[-1]):
        artifact = store.get(stage.kind, stage.key)
        if artifact is None:
            raise StudyError(f"the figures of stage {stage.kind} are not in the store any more; run it again")
        figures |= artifact.figures
    if is_worse_teacher(candidate.model_dump(), figures):
        note(f"warning: {teacher_sentence(None, figures)}")
    return figures


def _run(stage: Stage, runner: StageRunner, note: Callable[[str], None]) -> None:
    if runner.artifact(stage) is not None:
        note(f"  {stage.kind:<10} from the store")
        return
    started = time.perf_counter()
    failures = [end.failure for end in run_stages(runner, [stage]) if end.failure is not None]
    if failures:
        raise StudyError(failures[0])
    note(f"  {stage.kind:<10} {time.perf_counter() - started:.1f} s")
