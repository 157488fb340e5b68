"""A study's trials as the driver writes them: every event of a trial is one transaction.

Optuna writes an attribute, a value or a state at a time; a driver killed in between would leave half of a trial, and a reader
would see it. Here a trial appears with all that is needed to go on with it, and ends with all that is known of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from edgesearch.errors import StudyError
from edgesearch.search.study import _rows as rows
from edgesearch.search.study._errors import database_errors
from edgesearch.search.study._lease import Lease
from edgesearch.search.study._patience import Patience

_CONSTRAINTS = "constraints"  # where Optuna 5's Trial.set_constraint keeps its values

T = TypeVar("T")


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

    A database that is away is waited for, `patience` seconds (None: see `Patience`), of which `say` is told. Every method then
    raises StudyError when the database fails, and when the lease is lost; the transaction is undone.
    """

    def __init__(
        self,
        study: optuna.Study,
        lease: Lease | None = None,
        *,
        say: Callable[[str], None] = lambda message: None,
        patience: float | None = None,
    ) -> None:
        self._database = database_of(study)
        self._study_id, self._lease = study._study_id, lease
        self._patience = Patience(self._database, say, patience)
        self._trials: dict[int, FrozenTrial] = {}  # that run, and the last that ended
        self._told: dict[str, str] = {}  # the study's attributes that were written, as JSON

    def create(self, trial: FrozenTrial) -> int:
        """Add the running trial; returns its number."""

        def work(connection: Connection, again: bool) -> tuple[int, int]:
            known = rows.find_begun(connection, self._study_id, trial.datetime_start) if again else None
            return known or rows.add_trial(connection, self._study_id, trial)

        stored = copy.copy(trial)
        stored.number, stored._trial_id = self._write(work)
        self._trials[stored.number] = stored
        return stored.number

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
        ended = state or (TrialState.FAIL if values is None else TrialState.COMPLETE)
        system = {f"{_CONSTRAINTS}:{name}": amount for name, amount in (constraints or {}).items()}
        told = self._untold(study_attributes or {})

        def work(connection: Connection, again: bool) -> None:
            identity, stored = rows.find_trial(connection, self._study_id, number)
            if again and stored == ended:
                return
            self._database.check_trial_is_updatable(identity, stored)
            rows.set_trial_attributes(connection, identity, attributes, system)
            rows.end_trial(connection, identity, ended, values or (), completed)
            rows.set_study_attributes(connection, self._study_id, told)

        trial, completed = self.trial(number), datetime.now()
        self._write(work)
        self._remember(told)
        self._trials = {other: known for other, known in self._trials.items() if not known.state.is_finished()}
        self._trials[number] = _ended(trial, ended, values, completed, attributes, system)

    def note(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a running trial."""

        def work(connection: Connection, again: bool) -> None:
            identity, stored = rows.find_trial(connection, self._study_id, number)
            self._database.check_trial_is_updatable(identity, stored)
            rows.set_trial_attributes(connection, identity, attributes)

        self._write(work)
        self._trials.pop(number, None)

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it is stored."""

        def read() -> FrozenTrial:
            return self._database.get_trial(self._database.get_trial_id_from_study_id_trial_number(self._study_id, number))

        if number not in self._trials:
            self._trials[number] = self.patiently(read)
        return self._trials[number]

    def patiently(self, read: Callable[[], T]) -> T:
        """What `read` returns, which reads this study's database; where that is away, it is waited for, and read again."""
        with database_errors(self._database.url):
            return self._patience.run(lambda connection, again: read())

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the study."""
        told = self._untold(attributes)
        if told:
            self._write(lambda connection, again: rows.set_study_attributes(connection, self._study_id, told))
            self._remember(told)

    def _untold(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the study's attributes that are other ones than were written last."""
        return {name: value for name, value in attributes.items() if self._told.get(name) != json.dumps(value)}

    def _remember(self, attributes: Mapping[str, Any]) -> None:
        self._told |= {name: json.dumps(value) for name, value in attributes.items()}

    def _write(self, work: Callable[[Connection, bool], T]) -> T:
        def held(connection: Connection, again: bool) -> T:
            if self._lease is not None:
                self._lease.confirm(connection)
            return work(connection, again)

        with database_errors(self._database.url):
            return self._patience.run(held)


def _ended(
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None,
    completed: datetime,
    attributes: Mapping[str, Any],
    system: Mapping[str, Any],
) -> FrozenTrial:
    return FrozenTrial(
        number=trial.number,
        state=state,
        value=None,
        values=values,
        datetime_start=trial.datetime_start,
        datetime_complete=completed,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**trial.user_attrs, **attributes},
        system_attrs={**trial.system_attrs, **system},
        intermediate_values={},
        trial_id=trial._trial_id,
    )
