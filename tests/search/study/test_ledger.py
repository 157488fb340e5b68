"""Trials written event by event, read at every moment, on either database."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from edgesearch.errors import StudyError
from edgesearch.search.study import Ledger, hold_lease, open_storage
from edgesearch.search.study._ledger import database_of


def a_study(url: str) -> optuna.Study:
    return optuna.create_study(study_name=uuid.uuid4().hex, storage=open_storage(url), directions=["maximize", "minimize"])


def a_trial() -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={"candidate": {"a": 1}},
    )


def test_a_trial_ends_with_all_that_is_known_of_it(database: str) -> None:
    study = a_study(database)
    ledger = Ledger(study)
    assert [ledger.create(a_trial()), ledger.create(a_trial())] == [0, 1]
    ledger.finish(
        0,
        values=[1.0, 2.0],
        attributes={"accuracy": 1.0},
        constraints={"min_fps": -3.0},
        study_attributes={"rejected": 4},
    )
    ledger.finish(1, values=None, attributes={"failure": "no luck"}, study_attributes={"rejected": 5})
    again = optuna.load_study(study_name=study.study_name, storage=open_storage(database))
    first, second = again.get_trials()
    assert (first.state, first.values, first.constraints) == (TrialState.COMPLETE, [1.0, 2.0], {"min_fps": -3.0})
    assert first.user_attrs == {"candidate": {"a": 1}, "accuracy": 1.0}
    assert first.params == {"x": 0.5}
    assert first.duration is not None
    assert (second.state, second.user_attrs["failure"]) == (TrialState.FAIL, "no luck")
    assert again.user_attrs == {"rejected": 5}


def test_a_trial_that_waited_and_was_stopped_keeps_both(database: str) -> None:
    study = a_study(database)
    ledger = Ledger(study)
    number = ledger.create(a_trial())
    ledger.note(number, {"paused": {"epochs": 1}})
    ledger.note(number, {"paused": {"epochs": 3}})
    (waiting,) = optuna.load_study(study_name=study.study_name, storage=open_storage(database)).get_trials()
    assert (waiting.state, waiting.user_attrs["paused"]) == (TrialState.RUNNING, {"epochs": 3})
    ledger.finish(number, values=None, attributes={"stopped": {"epochs": 3}}, state=TrialState.PRUNED)
    (stopped,) = optuna.load_study(study_name=study.study_name, storage=open_storage(database)).get_trials()
    assert (stopped.state, stopped.values, stopped.user_attrs["stopped"]) == (TrialState.PRUNED, None, {"epochs": 3})
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        ledger.note(number, {"paused": {}})


def test_what_the_ledger_knows_of_a_trial_is_what_is_stored(database: str) -> None:
    """The engine learns from it without reading the database again."""
    study = a_study(database)
    ledger = Ledger(study)
    for number, end in enumerate(({"values": [1.0, 2.0]}, {"values": None}, {"values": None, "state": TrialState.PRUNED})):
        ledger.create(a_trial())
        ledger.note(number, {"paused": number})
        running = study.get_trials()[number]
        assert ledger.trial(number) == running
        ledger.finish(number, attributes={"accuracy": 0.5, "candidate": [number]}, constraints={"min_fps": -3.0}, **end)
        assert ledger.trial(number) == study.get_trials()[number]
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL", "PRUNED"]
    assert Ledger(study).trial(0) == study.get_trials()[0]


def test_a_trial_ends_once(database: str) -> None:
    ledger = Ledger(a_study(database))
    number = ledger.create(a_trial())
    ledger.finish(number, values=[1.0, 2.0], attributes={})
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        ledger.finish(number, values=None, attributes={"failure": "twice"})


def test_no_reader_sees_half_of_a_trial(database: str) -> None:
    """After every statement of the writer, another connection looks: it sees all of the trial's end or nothing of it."""
    study = a_study(database)
    ledger = Ledger(study)
    number = ledger.create(a_trial())
    reader = open_storage(database)
    seen: list[tuple[TrialState, frozenset[str], bool]] = []

    def look(*_: object) -> None:
        trial = reader.get_all_trials(study._study_id)[number]
        seen.append((trial.state, frozenset(trial.user_attrs), trial.values is not None))

    engine = database_of(study).engine
    event.listen(engine, "after_cursor_execute", look)
    ledger.finish(number, values=[1.0, 2.0], attributes=dict.fromkeys("abcdef", 1), constraints={"c": 0.0})
    event.remove(engine, "after_cursor_execute", look)
    assert len(seen) > 5
    assert set(seen) == {(TrialState.RUNNING, frozenset({"candidate"}), False)}
    look()
    assert seen[-1] == (TrialState.COMPLETE, frozenset({"candidate", *"abcdef"}), True)


@pytest.mark.slow
def test_a_writer_killed_at_any_statement_leaves_a_running_trial_or_a_finished_one(database: str) -> None:
    script = """
import os, sys
import optuna
from sqlalchemy import event
from edgesearch.search.study import Ledger, open_storage
from edgesearch.search.study._ledger import database_of
url, name, number, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
study = optuna.load_study(study_name=name, storage=open_storage(url))
count = 0
def kill(*_):
    global count
    count += 1
    if count == limit:
        os.kill(os.getpid(), 9)
event.listen(database_of(study).engine, "after_cursor_execute", kill)
Ledger(study).finish(number, values=[1.0, 2.0], attributes={"a": 1, "b": 2}, constraints={"c": 0.0})
"""
    study = a_study(database)
    ledger = Ledger(study)
    for limit in (2, 4, 6):
        number = ledger.create(a_trial())
        ended = subprocess.run([sys.executable, "-c", script, database, study.study_name, str(number), str(limit)])
        assert ended.returncode == -9
        trial = open_storage(database).get_all_trials(study._study_id)[number]
        assert (trial.state, set(trial.user_attrs), trial.values) == (TrialState.RUNNING, {"candidate"}, None)
        ledger.finish(number, values=None, attributes={})


def test_nothing_is_written_once_the_lease_is_lost(database: str) -> None:
    study = a_study(database)
    with hold_lease(open_storage(database), study.study_name, heartbeat=1000) as lost:
        ledger = Ledger(study, lost)
        number = ledger.create(a_trial())
        with hold_lease(open_storage(database), study.study_name, dead_after=-1):
            for write in (
                lambda: ledger.finish(number, values=[1.0, 2.0], attributes={}),
                lambda: ledger.create(a_trial()),
                lambda: ledger.set_attributes({"rejected": 1}),
            ):
                with pytest.raises(StudyError, match="took study"):
                    write()
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.RUNNING]
    assert study.user_attrs == {}


def test_a_full_database_is_one_sentence_and_the_study_goes_on(tmp_path: Path) -> None:
    study = a_study(f"sqlite:///{tmp_path / 'x.db'}")
    ledger = Ledger(study)
    number = ledger.create(a_trial())
    engine = database_of(study).engine

    def limit(connection: object, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

    event.listen(engine, "connect", limit)
    engine.dispose()
    with pytest.raises(StudyError, match=r"x\.db.*full.*same command again"):
        ledger.finish(number, values=[1.0, 2.0], attributes={"a": "b" * 1_000_000})
    event.remove(engine, "connect", limit)
    engine.dispose()
    ledger.finish(number, values=[1.0, 2.0], attributes={"a": "b" * 1_000_000})
    assert study.get_trials()[number].state == TrialState.COMPLETE


def test_studies_that_are_in_no_database_are_refused() -> None:
    with pytest.raises(StudyError, match="expected a database"):
        Ledger(optuna.create_study())
