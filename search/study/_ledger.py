"""A study's trials as the driver writes them: every event of a trial is one transaction.

Optuna writes an attribute, a value or a state at a time; a driver killed in between would leave half of a trial, and a reader
would see it. Here a trial appears with all that is needed to go on with it, and ends with all that is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from edgesearch.errors import StudyError
from edgesearch.search.study._errors import database_errors
from edgesearch.search.study._lease import Lease

_CONSTRAINTS = "constraints"  # where Optuna 5's Trial.set_constraint keeps its values


def database_of(study: optuna.Study) -> RDBStorage:
    """The database below a study; raises StudyError when it is kept elsewhere."""
    storage = study._storage
    if isinstance(storage, _CachedStorage):
        storage = storage._backend
    if not isinstance(storage, RDBStorage):
        raise StudyError(f"study {study.study_name!r} is kept in {type(storage).__name__}; expected a database (RDBStorage)")
    return storage


class Ledger:
    """Writes one study. With a lease, nothing is written once another driver holds it.

    Every method raises StudyError when the database fails or the lease is lost; the transaction is then undone.
    """

    def __init__(self, study: optuna.Study, lease: Lease | None = None) -> None:
        self._database = database_of(study)
        self._study_id, self._lease = study._study_id, lease

    def create(self, trial: FrozenTrial) -> int:
        """Add the trial; returns its number."""
        with self._transaction() as session:
            models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
            return int(cast(Any, self._database._get_prepared_new_trial(self._study_id, trial, session)).number)

    def finish(
        self,
        number: int,
        *,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float] | None = None,
        study_attributes: Mapping[str, Any] | None = None,
        state: TrialState | None = None,
    ) -> None:
        """End a running trial: COMPLETE with these values, or FAIL when they are None; or in another state.

        `constraints` maps each constraint to the amount beyond its limit, at most zero when it is kept.
        """
        database = self._database
        with self._transaction() as session:
            trial = self._running(session, number)
            for name, value in attributes.items():
                database._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial.trial_id, name, value)
            for name, value in (constraints or {}).items():
                database._set_trial_attr_without_commit(
                    session, models.TrialSystemAttributeModel, trial.trial_id, f"{_CONSTRAINTS}:{name}", value
                )
            for objective, value in enumerate(values or ()):
                database._set_trial_value_without_commit(session, trial, objective, value)
            trial.state = state or (TrialState.FAIL if values is None else TrialState.COMPLETE)
            trial.datetime_complete = datetime.now()
            self._set_attributes(session, study_attributes or {})

    def note(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a running trial."""
        with self._transaction() as session:
            trial = self._running(session, number)
            for name, value in attributes.items():
                self._database._set_trial_attr_without_commit(
                    session, models.TrialUserAttributeModel, trial.trial_id, name, value
                )

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the study."""
        if attributes:
            with self._transaction() as session:
                self._set_attributes(session, attributes)

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with database_errors(self._database.url):
            session: Session = self._database.scoped_session()
            try:
                if self._lease is not None:
                    self._lease.confirm(session.connection())
                yield session
                session.commit()
            except BaseException:
                session.rollback()
                raise
            finally:
                session.close()

    def _running(self, session: Session, number: int) -> Any:
        query = session.query(models.TrialModel).filter_by(study_id=self._study_id, number=number).with_for_update()
        trial: Any = query.one()  # Optuna's models are not typed
        self._database.check_trial_is_updatable(trial.trial_id, trial.state)
        return trial

    def _set_attributes(self, session: Session, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            query = session.query(models.StudyUserAttributeModel).filter_by(study_id=self._study_id, key=name)
            stored = query.one_or_none()
            if stored is None:
                stored = models.StudyUserAttributeModel(study_id=self._study_id, key=name)
                session.add(stored)
            stored.value_json = json.dumps(value)
