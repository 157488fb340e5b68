"""A ledger in memory: a replayed study ends with its process, and needs no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.study import Ledger

__all__ = ["MemoryLedger"]


class MemoryLedger(Ledger):
    """Writes a study that Optuna keeps in memory."""

    def __init__(self, study: optuna.Study) -> None:
        self._storage, self._study_id = study._storage, study._study_id

    def create(self, trial: FrozenTrial) -> int:
        """Add the trial; returns its number."""
        return self._storage.get_trial_number_from_id(self._storage.create_new_trial(self._study_id, template_trial=trial))

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
        """End a running trial: COMPLETE with these values, or FAIL when they are None; or in another state."""
        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(identity, name, value)
        for name, value in (constraints or {}).items():
            self._storage.set_trial_system_attr(identity, f"constraints:{name}", value)
        ended = state or (TrialState.FAIL if values is None else TrialState.COMPLETE)
        self._storage.set_trial_state_values(identity, ended, values)
        self.set_attributes(study_attributes or {})

    def note(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a running trial."""
        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(identity, name, value)

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it is stored."""
        return self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the study."""
        for name, value in attributes.items():
            self._storage.set_study_user_attr(self._study_id, name, value)
