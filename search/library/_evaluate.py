"""One candidate through the whole pipeline of a study, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.objectives import Stage, Store
from edgesearch.search.engine import Job, run_job
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.study import Home
from edgesearch.spaces import Candidate


def evaluate_candidate(
    inputs: Inputs, home: Home, candidate: Candidate, *, test: bool, note: Callable[[str], None]
) -> dict[str, Any]:
    """The candidate's figures; with `test` also test_accuracy. Stages that the store has are not run again.

    Raises StudyError when a stage fails, with its reason and its log.
    """
    candidate = inputs.complete(candidate)
    estimate = inputs.estimator.estimate(candidate)
    measured = inputs.plan(candidate)
    home.prepare()
    store = Store(home.store, warn=note)
    note(f"{candidate}: about {estimate['fps']:,.0f} FPS before training")
    stages = [*measured.walk(), *([inputs.plan(candidate, last="tested")] if test else [])]
    for stage in stages:
        _run(stage, inputs, store, home, note)
    figures: dict[str, Any] = {}
    for stage in (measured, stages[-1]):
        artifact = store.get(stage.kind, stage.key)
        if artifact is None:
            raise StudyError(f"the figures of stage {stage.kind} are not in the store any more; run it again")
        figures |= artifact.figures
    return figures


def _run(stage: Stage, inputs: Inputs, store: Store, home: Home, note: Callable[[str], None]) -> None:
    if store.get(stage.kind, stage.key) is not None:
        note(f"  {stage.kind:<10} from the store")
        return
    started = time.perf_counter()
    log = home.logs("evaluate") / f"{stage.kind}-{stage.key[:16]}.log"
    data = inputs.settings.data.model_dump(mode="json")
    result = run_job(asdict(Job(stage=stage.to_json(), data=data, store=str(store.root), log=str(log), threads=0)))
    if result["outcome"] != "done":
        raise StudyError(f"stage {stage.kind}: {result['message']} (log: {log})")
    note(f"  {stage.kind:<10} {time.perf_counter() - started:.1f} s")
