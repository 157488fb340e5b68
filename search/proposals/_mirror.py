"""A study in memory that samplers draw on: trials that are complete or run, and no more of them than a sampler can go through.

From several hundred complete trials on, the best and the latest of them stand for all: samplers of Optuna go through all trials
for every parameter, so that an ask would take seconds at ten thousand. Which trials are kept depends on the trials and their
order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Literal

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.samplers._ga import BaseGASampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.proposals._tpe import Columns, Lessons, SharedTPE
from edgesearch.search.study import non_dominated, quiet_optuna

__all__ = ["Mirror"]

#: Complete trials from which on only some are kept, and how many of the best and of the latest.
_MOST, _BEST, _LATEST = 640, 128, 256
#: Optuna's genetic samplers count generations in an attribute that ends so; older ones than this many count as one.
_GENERATION, _GENERATIONS = ":generation", 4
#: Attributes of constraints, more than zero where one is broken.
_CONSTRAINT = "constraints"


class _Memory(InMemoryStorage):
    """Storage in memory that can forget the trial which it made last."""

    def forget_last(self, study_id: int) -> None:
        """As if it had never been asked for."""
        trial = self._studies[study_id].trials.pop()
        del self._trial_id_to_study_id_and_number[trial._trial_id]

    def forget_attributes(self, study_id: int, head: str) -> None:
        """Forget the study's own attributes of which the names begin so."""
        attributes = self._studies[study_id].system_attrs
        for name in [name for name in attributes if name.startswith(head)]:
            del attributes[name]


class Mirror:
    """What a sampler sees of a study. `needs_parameters`: trials without parameters are kept from it."""

    def __init__(self, directions: Sequence[Literal["minimize", "maximize"]], *, needs_parameters: bool) -> None:
        self._directions, self._needs_parameters = list(directions), needs_parameters
        self._known: dict[int, int] = {}  # trial number -> the mirror's own id of that trial, in the order of their coming
        self._complete = 0
        self._lessons: Lessons = {}
        self._columns: Columns = {}
        self._start()

    def _start(self) -> None:
        with quiet_optuna():
            self._storage = _Memory()
            self._study = optuna.create_study(directions=self._directions, storage=self._storage)
        self._known.clear()
        self._columns.clear()  # ids begin anew

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended; what it is foretold to end with may come before, and is replaced then.

        One that failed is forgotten, as if it had never been told of: a study that goes on after a break does not tell of it.
        """
        self._lessons.clear()
        known = self._known.get(trial.number)
        if known is None:
            # Samplers do not use failed trials, some none without parameters.
            if trial.state in (TrialState.COMPLETE, TrialState.RUNNING) and (trial.params or not self._needs_parameters):
                self._add(trial.number, trial)
                self._complete += trial.state == TrialState.COMPLETE
        elif trial.state not in (TrialState.COMPLETE, TrialState.RUNNING):
            self._keep(self._known.keys() - {trial.number})
        else:
            mirrored = self._storage.get_trial(known)  # in memory, this is the trial itself
            if not mirrored.state.is_finished():
                for name, value in trial.system_attrs.items():  # its constraints among them
                    self._storage.set_trial_system_attr(known, name, value)
                self._storage.set_trial_state_values(known, trial.state, trial.values)
                self._complete += trial.state == TrialState.COMPLETE
            elif trial.state == TrialState.COMPLETE:
                mirrored.values = trial.values
                mirrored._system_attrs = dict(trial.system_attrs)
        if self._complete >= _MOST:
            self._shorten()

    @contextmanager
    def asked(self, sampler: BaseSampler) -> Iterator[optuna.Trial]:
        """A trial of the sampler's, which is forgotten afterwards."""
        if isinstance(sampler, SharedTPE):
            sampler.lessons, sampler.columns = self._lessons, self._columns
        with quiet_optuna():
            self._study.sampler = sampler
            if isinstance(sampler, BaseGASampler):
                self._choose_parents(sampler)
            trial = self._study.ask()
            try:
                yield trial
            finally:
                self._storage.forget_last(self._study._study_id)

    def _choose_parents(self, sampler: BaseGASampler) -> None:
        """Let the sampler choose the parents of all generations from the trials alone.

        It would keep what it chose in the study's attributes, where a driver that begins after a break does not find it. Older
        generations come first: a later one asks for its parents', which is a deep recursion where there are many.
        """
        study_id, generation = self._study._study_id, sampler._get_generation_key()
        self._storage.forget_attributes(study_id, sampler._get_parent_cache_key_prefix())
        trials = self._storage.get_all_trials(study_id, deepcopy=False)
        for number in range(1, max((trial.system_attrs.get(generation, 0) for trial in trials), default=0) + 1):
            sampler.get_parent_population(self._study, number)

    def frozen(self, trial: optuna.Trial) -> FrozenTrial:
        """A trial that was asked for, as it is so far."""
        return self._storage.get_trial(trial._trial_id)

    def _add(self, number: int, trial: FrozenTrial) -> None:
        drawn = copy.copy(trial)
        drawn._user_attrs = {}  # no sampler reads the figures, which would be many megabytes
        self._known[number] = self._storage.create_new_trial(self._study._study_id, template_trial=drawn)

    def _shorten(self) -> None:
        trials = {number: self._storage.get_trial(known) for number, known in self._known.items()}
        complete = sorted(number for number, trial in trials.items() if trial.state == TrialState.COMPLETE)
        kept = set(complete[-_LATEST:]) | set(self._best([trials[number] for number in complete], complete))
        _count_anew([trials[number] for number in complete if number in kept])
        self._keep(kept | (trials.keys() - set(complete)))

    def _keep(self, numbers: Set[int]) -> None:
        """Forget all trials but these."""
        trials = {number: self._storage.get_trial(known) for number, known in self._known.items() if number in numbers}
        self._start()
        for number, trial in trials.items():
            self._add(number, trial)
        self._complete = sum(trial.state == TrialState.COMPLETE for trial in trials.values())

    def _best(self, trials: Sequence[FrozenTrial], numbers: Sequence[int]) -> list[int]:
        """Those that keep all constraints first, then by how many fronts lie before them."""
        signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in self._study.directions]
        losses = np.array([np.array(signs) * trial.values for trial in trials], dtype=np.float64)
        broken = np.array([_is_broken(trial) for trial in trials])
        best: list[int] = []
        for left in (np.flatnonzero(~broken), np.flatnonzero(broken)):
            while len(left) and len(best) < _BEST:
                front = non_dominated(losses[left])
                best += [numbers[i] for i in left[front]]
                left = np.delete(left, front) if front else left[:0]  # values that are not finite are on no front
        return best[:_BEST]


def _is_broken(trial: FrozenTrial) -> bool:
    amounts = [value for name, value in trial.system_attrs.items() if name.startswith(_CONSTRAINT)]
    return any(np.max(amount, initial=-np.inf) > 0 for amount in amounts)


def _count_anew(trials: Sequence[FrozenTrial]) -> None:
    """Let the latest generations be the first, so that none is looked for that was not kept."""
    last: dict[str, int] = {}
    for trial in trials:
        for name, value in trial.system_attrs.items():
            if name.endswith(_GENERATION):
                last[name] = max(value, last.get(name, 0))
    for trial in trials:
        for name in last.keys() & trial.system_attrs.keys():
            trial.system_attrs[name] = max(0, trial.system_attrs[name] - max(0, last[name] - _GENERATIONS))
