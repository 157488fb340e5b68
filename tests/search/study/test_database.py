"""Trials read a table at a time are those that Optuna reads."""

from __future__ import annotations

import uuid

from _studies import make_study
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from edgesearch.search.study import open_storage


def test_trials_are_read_as_optuna_reads_them(database: str) -> None:
    storage, reference = open_storage(database), RDBStorage(database)
    study = make_study(12, storage=database, name=uuid.uuid4().hex, constraints={"min_fps": 400.0})
    make_study(3, storage=database, name=uuid.uuid4().hex)
    number = study._study_id
    study._storage.set_trial_intermediate_value(study.get_trials()[-1]._trial_id, 3, float("inf"))
    first, *_, last = reference.get_all_trials(number)
    assert storage.get_all_trials(number) == reference.get_all_trials(number)
    for states in ((TrialState.COMPLETE,), (TrialState.FAIL, TrialState.RUNNING), ()):
        assert storage.get_all_trials(number, states=states) == reference.get_all_trials(number, states=states)
    some = storage._get_trials(number, None, {first._trial_id, last._trial_id}, last._trial_id - 2)
    assert [trial.number for trial in some] == [first.number, last.number - 1, last.number]
    reference.engine.dispose()
