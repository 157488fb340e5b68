"""Simulated time: what jobs take, what a rung saves, and what workers do meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from _replay_tables import EPOCH, EPOCHS, OVERHEAD, SECONDS, epochs_of, figures_of, small_study, small_table

from edgesearch.objectives import Stage, plan
from edgesearch.search.processes import Job
from edgesearch.spaces import Candidate
from edgesearch.testing import MemoryStore, ReplayPool, Table, what_is


def job_of(stage: Stage) -> Job:
    return Job(stage=stage.to_json(), data={}, store="memory", log="")


def stages_of(**wanted: object) -> dict[str, Stage]:
    """The stages, by kind, of the first candidate that is not taught and has this width."""
    candidate = next(c for c in small_table().candidates.values() if _fits(c, wanted))
    return {s.kind: s for s in plan(candidate, small_study().pipeline, small_table().conditions).walk()}


def _fits(candidate: Candidate, wanted: dict[str, object]) -> bool:
    is_plain = candidate.distillation.kind == "none" and candidate.pruning.method == "none"
    return is_plain and all(getattr(candidate.student, name) == value for name, value in wanted.items())


def rung_of(student: Stage, epochs: int) -> Stage:
    return replace(student, kind="rung", parameters={**student.parameters, "epochs": epochs})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_time_stands_still_until_it_is_waited_for(store: MemoryStore) -> None:
    pool, stages = ReplayPool(small_table(), store), stages_of()
    pool.submit(job_of(stages["student"]))
    assert pool.wait(0.0) == []
    assert pool.now == 0.0
    assert not store.has("student", stages["student"].key)
    (end,) = pool.wait(0.25)
    assert (end.key, end.outcome) == (stages["student"].key, "done")
    assert pool.now == end.seconds == OVERHEAD + EPOCH * EPOCHS
    assert store.has("student", stages["student"].key)


def test_workers_work_side_by_side(store: MemoryStore) -> None:
    pool, stages = ReplayPool(small_table(), store, workers=2), stages_of()
    pool.submit(job_of(stages["student"]))
    pool.submit(job_of(stages["measured"]))
    (first,) = pool.wait(1.0)
    assert first.key == stages["measured"].key
    assert pool.worker_seconds == pytest.approx(2 * SECONDS["measured"])
    (second,) = pool.wait(1.0)
    assert second.key == stages["student"].key
    assert pool.worker_seconds == pytest.approx(SECONDS["measured"] + OVERHEAD + EPOCH * EPOCHS)


def test_a_busy_pool_takes_no_job(store: MemoryStore) -> None:
    pool, stages = ReplayPool(small_table(), store), stages_of()
    pool.submit(job_of(stages["student"]))
    with pytest.raises(RuntimeError, match="1 workers are all busy"):
        pool.submit(job_of(stages["measured"]))


def test_a_training_goes_on_from_its_rung(store: MemoryStore) -> None:
    pool, student = ReplayPool(small_table(), store), stages_of(width=2.0)["student"]
    for epochs, before in ((1, 0), (3, 1)):
        pool.submit(job_of(rung_of(student, epochs)))
        (end,) = pool.wait(1.0)
        assert end.seconds == OVERHEAD + EPOCH * (epochs - before)
        expected = epochs_of(small_table().study.space.smallest_students()[0].model_copy(update={"width": 2.0}), False)
        figures = store.get("rung", end.key).figures  # type: ignore[union-attr]
        assert figures == {"accuracy": expected[epochs - 1].accuracy, "loss": expected[epochs - 1].loss, "epochs": epochs}
    pool.submit(job_of(student))
    (end,) = pool.wait(1.0)
    assert end.seconds == OVERHEAD + EPOCH * (EPOCHS - 3)


def test_two_workers_do_not_train_one_student_twice(store: MemoryStore) -> None:
    pool, student = ReplayPool(small_table(), store, workers=2), stages_of()["student"]
    pool.submit(job_of(rung_of(student, 3)))
    pool.submit(job_of(student))
    ends = [end for _ in range(2) for end in pool.wait(1.0)]
    assert [end.key for end in ends] == [rung_of(student, 3).key, student.key]
    assert pool.now == 2 * OVERHEAD + EPOCH * EPOCHS


def test_other_students_have_rungs_of_their_own(store: MemoryStore) -> None:
    pool = ReplayPool(small_table(), store)
    pool.submit(job_of(rung_of(stages_of(width=1.0)["student"], 3)))
    pool.wait(1.0)
    pool.submit(job_of(stages_of(width=4.0)["student"]))
    assert pool.wait(1.0)[0].seconds == OVERHEAD + EPOCH * EPOCHS


def test_a_stage_that_failed_is_refused_with_its_reason(store: MemoryStore) -> None:
    table, stage = small_table(), stages_of()["quantized"]
    failed = replace(table.find(what_is(stage)), failure="it is too thin")
    pool = ReplayPool(Table(table.study, (failed,), {}, {}), store)
    pool.submit(job_of(stage))
    (end,) = pool.wait(1.0)
    assert (end.outcome, end.message, end.seconds) == ("refused", "it is too thin", SECONDS["quantized"])
    assert not store.has("quantized", stage.key)


def test_a_pruned_network_that_breaks_a_limit_is_not_fine_tuned(store: MemoryStore) -> None:
    table = small_table()
    candidate = next(c for c in table.candidates.values() if c.pruning.method != "none" and c.distillation.kind == "none")
    stages = {s.kind: s for s in plan(candidate, small_study().pipeline, table.conditions).walk()}
    chosen = tuple(replace(e, chosen_seconds=2.0) if e.kind == "pruned" else e for e in table.entries)
    for limit, outcome, seconds in ((1e9, "infeasible", 2.0), (1.0, "done", SECONDS["pruned"])):
        pool = ReplayPool(Table(table.study, chosen, {}, table.images), MemoryStore())
        pool.submit(replace(job_of(stages["pruned"]), limits={"values": {"min_fps": limit}}))
        (end,) = pool.wait(1.0)
        assert (end.outcome, end.seconds) == (outcome, seconds)
        assert dict(end.figures).get("fps") == (figures_of(candidate)["fps"] if outcome == "infeasible" else None)


def test_a_stopped_job_is_lost(store: MemoryStore) -> None:
    pool, stages = ReplayPool(small_table(), store, workers=2), stages_of()
    pool.submit(job_of(stages["student"]))
    pool.submit(job_of(stages["measured"]))
    pool.wait(1.0)
    assert pool.cancel(stages["student"].key)
    assert not pool.cancel(stages["measured"].key)
    (end,) = pool.wait(0.0)
    assert (end.outcome, end.seconds) == ("lost", SECONDS["measured"])
    assert not store.has("student", stages["student"].key)
    assert pool.worker_seconds == 2 * SECONDS["measured"]


def test_a_stage_that_was_not_recorded_is_no_silent_zero(store: MemoryStore) -> None:
    stage = replace(stages_of()["quantized"], kind="polished")
    with pytest.raises(LookupError, match="polished"):
        ReplayPool(small_table(), store).submit(job_of(stage))
