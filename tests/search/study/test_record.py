from __future__ import annotations

import optuna
import pytest
from _studies import make_study, plain_record
from optuna.trial import TrialState, create_trial

from edgesearch.errors import SpaceError, StudyError
from edgesearch.search.study._record import Objective, read_records, read_study
from edgesearch.spaces import Candidate


def test_a_complete_trial_keeps_every_figure_and_its_candidate() -> None:
    study = make_study(20, constraints={"min_fps": 500.0})
    trial = next(t for t in study.trials if t.state == TrialState.COMPLETE and t.user_attrs["violations"])
    record = read_records(study)[trial.number]
    assert record.number == trial.number
    assert record.state == "COMPLETE"
    assert record.values == tuple(trial.values)
    assert (record.accuracy, record.fps) == tuple(trial.values)
    for name in ("float_accuracy", "latency_ms", "size_bytes", "macs", "parameters"):
        assert getattr(record, name) == trial.user_attrs[name]
    assert record.metrics["estimated_fps"] == trial.user_attrs["estimated_fps"]
    assert record.candidate == Candidate.model_validate(trial.user_attrs["candidate"])
    assert record.candidate.key == record.candidate_key
    assert record.recipe == str(record.candidate)
    assert record.architecture == record.candidate.student.architecture
    assert record.stage_seconds == trial.user_attrs["stage_seconds"]
    assert record.cache_hits == tuple(trial.user_attrs["cache_hits"])
    assert record.artifacts["student"]
    assert record.violations == trial.user_attrs["violations"]
    assert not record.is_feasible
    assert "ask_seconds" not in record.metrics
    assert "deployable" not in record.metrics


def test_stopped_and_waiting_trials_say_how_far_they_came() -> None:
    study = make_study(3, failing=0.0, running=0)
    account = {"epochs": 3, "of": 27, "accuracies": [0.4], "low": 0.5, "middle": 0.6, "high": 0.7}
    stopped = account | {"reason": "stopped after 3 of 27 epochs"}
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"paused": account, "stopped": stopped, "again": 2}))
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"paused": account}))
    study.add_trial(create_trial(state=TrialState.COMPLETE, values=[0.5, 100.0], user_attrs={"paused": account}))
    view = read_study(study)
    assert view.counts == {"COMPLETE": 4, "PRUNED": 1, "FAIL": 0, "RUNNING": 1}
    one, waiting, complete = view.records[3:]
    assert (one.state, one.stopped, one.values, one.is_complete) == ("PRUNED", stopped, None, False)
    assert (waiting.state, waiting.stopped) == ("RUNNING", account)
    assert (complete.state, complete.stopped) == ("COMPLETE", {})
    assert "again" not in one.metrics


def test_failed_running_and_bare_trials_are_read() -> None:
    study = make_study(10, failing=1.0, running=2)
    study.add_trial(create_trial(state=TrialState.RUNNING))
    study.add_trial(create_trial(state=TrialState.FAIL))
    view = read_study(study)
    assert view.counts == {"COMPLETE": 0, "PRUNED": 0, "FAIL": 11, "RUNNING": 3}
    failed, running, bare = view.records[0], view.records[10], view.records[12]
    assert failed.failure.startswith("stage ")
    assert failed.values is None
    assert failed.losses == ()
    assert failed.accuracy is None
    assert running.candidate.student.architecture == running.architecture
    assert not running.is_complete
    assert (bare.recipe, bare.architecture, bare.candidate_key, bare.failure) == ("", "", "", "")
    with pytest.raises(SpaceError, match="trial 12"):
        _ = bare.candidate


def test_waiting_trials_count_as_running() -> None:
    study = make_study(1, running=0)
    study.enqueue_trial({"x": 1.0})
    assert read_study(study).counts["RUNNING"] == 1


def test_study_settings_are_read_and_constraints_that_are_not_set_are_left_out() -> None:
    study = make_study(30, constraints={"min_accuracy": 0.9}, objectives=("accuracy", "latency_ms"))
    study.set_user_attr("test_accuracy", {"3": 0.91})
    view = read_study(study)
    assert view.name == "demo"
    assert view.objectives == (Objective("accuracy", maximise=True), Objective("latency_ms", maximise=False))
    assert view.constraints == {"min_accuracy": 0.9}
    assert (view.rejected, view.repeats) == (10, 4)
    assert sum(view.rejections.values()) == view.rejected
    assert view.test_accuracy == {3: 0.91}
    assert view.board == "zcu104"


def test_losses_turn_what_is_maximised() -> None:
    assert plain_record(0, (0.9, 5.0), ("accuracy", "latency_ms")).losses == (-0.9, 5.0)


def test_an_import_path_shows_its_class_only() -> None:
    record = plain_record(0, (0.9, 1.0), settings={"student": {"architecture": "my_pkg.models:Net"}})
    assert record.architecture == "Net"
    assert record.recipe == "Net @32 ptq int8"


@pytest.mark.parametrize("values", [(float("nan"), 1.0), (0.5, float("inf"))])
def test_values_that_are_not_finite_do_not_count(values: tuple[float, float]) -> None:
    assert not plain_record(0, values).is_complete


def test_another_programs_study_is_refused() -> None:
    with pytest.raises(StudyError, match="was not made by edgesearch"):
        read_study(optuna.create_study(study_name="other"))


def test_names_that_do_not_fit_the_directions_are_refused() -> None:
    study = optuna.create_study(directions=["maximize", "maximize"])
    study.set_user_attr("study", {"name": "x", "objectives": ["accuracy"]})
    with pytest.raises(StudyError, match="2 objectives but names 1"):
        read_study(study)
