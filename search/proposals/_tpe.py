"""Optuna's TPE, several times as fast: what it learns of a study is kept from one parameter and one ask to the next.

`TPESampler` parts a study's trials into better and worse ones, and estimates the densities of both, for every parameter of
every ask. All of this depends on the trials alone, not on the random numbers, so that it is done once until the trials change;
what a trial's parameter is to an estimator never changes. What is drawn is, bit for bit, what `TPESampler` draws with the same
seed.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma, default_gamma_multiobjective
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

__all__ = ["Columns", "Lessons", "SharedTPE"]

#: What is known of a study's trials; whoever changes these empties it.
Lessons = dict[Hashable, Any]
#: Of each parameter, by its name and distribution: its value as estimators take it, by the trial's id; None where it has none.
Columns = dict[Hashable, dict[int, float | None]]


class SharedTPE(TPESampler):
    """`lessons`, `columns`: those of the study that it draws for; it keeps its own until it is given some."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lessons: Lessons = {}
        self.columns: Columns = {}

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        parameters = tuple(search_space.items())
        if parameters not in self.lessons:
            better, worse = self._parted(study, trial)
            self.lessons[parameters] = (
                self._build_parzen_estimator(study, search_space, better, handle_below=True),
                self._build_parzen_estimator(study, search_space, worse, handle_below=False),
            )
        of_better, of_worse = self.lessons[parameters]
        samples = of_better.sample(self._rng.rng, self._n_ei_candidates)
        drawn = self._compare(samples, self._compute_acquisition_func(samples, of_better, of_worse))
        return {name: distribution.to_external_repr(drawn[name]) for name, distribution in parameters}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        if self._is_multivariate(study):  # takes what is known of trials under way, too
            return super()._get_internal_repr(trials, search_space, study)
        ((name, distribution),) = search_space.items()
        column = self.columns.setdefault((name, distribution), {})
        for trial in trials:
            if trial._trial_id not in column:
                has_it = name in trial.params
                column[trial._trial_id] = distribution.to_internal_repr(trial.params[name]) if has_it else None
        values = [column[trial._trial_id] for trial in trials]
        return {name: np.asarray([value for value in values if value is not None])}

    def _parted(self, study: Study, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The better and the worse trials, those under way among the worse where `constant_liar` is asked for."""
        if "parted" not in self.lessons:
            states = [TrialState.COMPLETE, TrialState.PRUNED, *([TrialState.RUNNING] if self._constant_liar else [])]
            trials = [other for other in study.get_trials(deepcopy=False, states=states) if other.number != trial.number]
            gamma = self._gamma or (default_gamma if len(study.directions) == 1 else default_gamma_multiobjective)
            ended = sum(other.state != TrialState.RUNNING for other in trials)
            self.lessons["parted"] = _split_trials(study, trials, gamma(ended))
        parted: tuple[list[FrozenTrial], list[FrozenTrial]] = self.lessons["parted"]
        return parted
