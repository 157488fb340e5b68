"""The rows of Optuna's tables that make a trial, many to a statement.

Optuna's own methods take a query or two for every parameter and attribute, some fifty for a trial of ours; these take ten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

_STUDIES: Any = models.StudyModel.__table__
_STUDY_ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__
_TRIALS: Any = models.TrialModel.__table__
_PARAMETERS: Any = models.TrialParamModel.__table__
_VALUES: Any = models.TrialValueModel.__table__
_USER_ATTRIBUTES: Any = models.TrialUserAttributeModel.__table__
_SYSTEM_ATTRIBUTES: Any = models.TrialSystemAttributeModel.__table__


def add_trial(connection: Connection, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
    """Add a running trial with its parameters and attributes; returns its number and the database's own id of it."""
    connection.execute(select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == study_id).with_for_update()).one()
    number = connection.execute(select(func.count()).select_from(_TRIALS).where(_TRIALS.c.study_id == study_id)).scalar_one()
    row = {"number": number, "study_id": study_id, "state": trial.state, "datetime_start": _utc(trial.datetime_start)}
    inserted = connection.execute(insert(_TRIALS).values(row)).inserted_primary_key
    assert inserted is not None  # one row was inserted
    identity = int(inserted[0])
    parameters = [
        {
            "trial_id": identity,
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]
    _insert(connection, _PARAMETERS, parameters)
    _insert(connection, _USER_ATTRIBUTES, _attributes("trial_id", identity, trial.user_attrs))
    _insert(connection, _SYSTEM_ATTRIBUTES, _attributes("trial_id", identity, trial.system_attrs))
    return int(number), identity


def find_begun(connection: Connection, study_id: int, begun: datetime | None) -> tuple[int, int] | None:
    """Number and id of the study's trial that began at this very moment."""
    found = (_TRIALS.c.study_id == study_id) & (_TRIALS.c.datetime_start == _utc(begun))
    row = connection.execute(select(_TRIALS.c.number, _TRIALS.c.trial_id).where(found)).first()
    return None if row is None else (int(row[0]), int(row[1]))


def find_trial(connection: Connection, study_id: int, number: int) -> tuple[int, TrialState]:
    """The id and the state of a trial, which no other transaction changes before this one ends."""
    found = (_TRIALS.c.study_id == study_id) & (_TRIALS.c.number == number)
    row = connection.execute(select(_TRIALS.c.trial_id, _TRIALS.c.state).where(found).with_for_update()).one()
    return int(row[0]), row[1]


def end_trial(
    connection: Connection, identity: int, state: TrialState, values: Sequence[float], completed: datetime | None
) -> None:
    """Give a trial its state and values."""
    rows = []
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        rows.append({"trial_id": identity, "objective": objective, "value": stored, "value_type": kind})
    _insert(connection, _VALUES, rows)
    row = {"state": state, "datetime_complete": _utc(completed)}
    connection.execute(update(_TRIALS).where(_TRIALS.c.trial_id == identity).values(row))


def set_trial_attributes(
    connection: Connection, identity: int, user: Mapping[str, Any], system: Mapping[str, Any] | None = None
) -> None:
    """Set attributes of a trial, in place of those of the same names."""
    for table, attributes in ((_USER_ATTRIBUTES, user), (_SYSTEM_ATTRIBUTES, system or {})):
        if attributes:
            same = (table.c.trial_id == identity) & table.c.key.in_(list(attributes))
            connection.execute(delete(table).where(same))
            _insert(connection, table, _attributes("trial_id", identity, attributes))


def set_study_attributes(connection: Connection, study_id: int, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a study, in place of those of the same names."""
    if attributes:
        same = (_STUDY_ATTRIBUTES.c.study_id == study_id) & _STUDY_ATTRIBUTES.c.key.in_(list(attributes))
        connection.execute(delete(_STUDY_ATTRIBUTES).where(same))
        _insert(connection, _STUDY_ATTRIBUTES, _attributes("study_id", study_id, attributes))


def _attributes(owner: str, identity: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{owner: identity, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _insert(connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _utc(moment: datetime | None) -> datetime | None:
    """As Optuna stores local time: in UTC, without saying so."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)
