"""Optuna's storage in a database, which reads the trials of a study a table at a time.

Optuna makes an object of every parameter and attribute that it reads: of a study with thousands of trials hundreds of
thousands. What comes out here is the same, in a fraction of the time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, select
from sqlalchemy.engine import Connection

_TRIALS: Any = models.TrialModel.__table__
_INTERMEDIATE: Any = models.TrialIntermediateValueModel
_distribution: Callable[[str], BaseDistribution] = lru_cache(maxsize=1024)(json_to_distribution)


class Database(RDBStorage):
    """Raises SQLAlchemy's errors where Optuna's own raises StorageInternalError."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """The study's trials with greater ids, and of the others the included ones."""
        wanted = _TRIALS.c.trial_id > trial_id_greater_than
        earlier = [identity for identity in included_trial_ids if identity <= trial_id_greater_than]
        wanted = (_TRIALS.c.study_id == study_id) & ((wanted | _TRIALS.c.trial_id.in_(earlier)) if earlier else wanted)
        if states is not None:
            wanted &= _TRIALS.c.state.in_(list(cast("Iterable[TrialState]", states)))
        self.get_study_directions(study_id)  # raises KeyError where there is no such study
        with self.engine.connect() as connection:  # one view of all tables, so that no trial is seen by half
            if self.engine.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            elif self.engine.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            return list(_read(connection, wanted))


def _read(connection: Connection, wanted: ColumnElement[bool]) -> Iterator[FrozenTrial]:
    columns = (_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state, _TRIALS.c.datetime_start, _TRIALS.c.datetime_complete)
    trials = connection.execute(select(*columns).where(wanted).order_by(_TRIALS.c.trial_id)).all()
    values, parameters = _of(connection, wanted, models.TrialValueModel), _of(connection, wanted, models.TrialParamModel)
    user = _of(connection, wanted, models.TrialUserAttributeModel)
    system = _of(connection, wanted, models.TrialSystemAttributeModel)
    steps = _of(connection, wanted, _INTERMEDIATE)
    for identity, number, state, started, completed in trials:
        asked = sorted(parameters[identity], key=lambda row: row.param_id)
        drawn = [(row.param_name, _distribution(row.distribution_json), row.param_value) for row in asked]
        scores = sorted(values[identity], key=lambda row: row.objective)
        yield FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[models.TrialValueModel.stored_repr_to_value(row.value, row.value_type) for row in scores] or None,
            datetime_start=_local(started),
            datetime_complete=_local(completed),
            params={name: distribution.to_external_repr(value) for name, distribution, value in drawn},
            distributions={name: distribution for name, distribution, _ in drawn},
            user_attrs={row.key: json.loads(row.value_json) for row in user[identity]},
            system_attrs={row.key: json.loads(row.value_json) for row in system[identity]},
            intermediate_values={
                row.step: _INTERMEDIATE.stored_repr_to_intermediate_value(row.intermediate_value, row.intermediate_value_type)
                for row in steps[identity]
            },
            trial_id=identity,
        )


def _of(connection: Connection, wanted: ColumnElement[bool], model: Any) -> dict[int, list[Any]]:
    """The table's rows of the wanted trials, by trial."""
    table: Any = model.__table__
    joined = select(table).join(_TRIALS, table.c.trial_id == _TRIALS.c.trial_id)
    rows: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(joined.where(wanted)):
        rows[row.trial_id].append(row)
    return rows


def _local(moment: datetime | None) -> datetime | None:
    """Local time, of what is stored in UTC without saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
