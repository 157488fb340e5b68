"""Proposals: which candidate to try next.

Optuna's samplers work on a mirror of the study in memory, so that a proposal that is turned down (it breaks a constraint, the
DPU cannot run it, it was tried before) never becomes a trial. Every proposal's random numbers come from (study seed, trial
number, attempt): a resumed study proposes what the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.study import SearchSettings, StudyFile, with_fingerprint
from edgesearch.spaces import Candidate, Space

#: After this many proposals in a row that lead nowhere, the sampler is replaced by plain random draws for this trial.
_PATIENCE = 8
#: After this many the space counts as exhausted.
MAX_ATTEMPTS = 300


@dataclass(frozen=True)
class Proposal:
    """A candidate, and what Optuna wants to know of how it was drawn."""

    candidate: Candidate
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**31 from the given parts, the same on every machine."""
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) & 0x7FFFFFFF


def make_sampler(search: SearchSettings, seed: int) -> BaseSampler:
    """The sampler that the study asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=search.startup_trials)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=search.population)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=search.startup_trials)
            case "random":
                return RandomSampler(seed=seed)


class Proposer:
    """Draws candidates, first those that the study names, then from its space."""

    def __init__(self, settings: StudyFile) -> None:
        self._settings = settings
        self._mirror = optuna.create_study(directions=list(settings.directions))

    def observe(self, trial: FrozenTrial) -> None:
        """Learn from a finished trial."""
        if trial.state != TrialState.COMPLETE:
            return  # samplers do not use failed trials
        if not trial.params and self._settings.search.sampler in ("nsga2", "gp"):
            return  # these two only search the parameters that all trials have
        self._mirror.add_trial(trial)

    def proposals(self, number: int) -> Iterator[Proposal]:
        """Candidates for trial `number`, one after the other until one is taken; ends when the space seems exhausted."""
        for candidate in self._settings.candidates:
            yield Proposal(candidate.canonical())
        if self._settings.space is not None:
            for attempt in range(MAX_ATTEMPTS):
                yield self._draw(self._settings.space, number, attempt)

    def _draw(self, space: Space, number: int, attempt: int) -> Proposal:
        seed = derive_seed(self._settings.seed, number, attempt)
        search = self._settings.search
        self._mirror.sampler = RandomSampler(seed=seed) if attempt >= _PATIENCE else make_sampler(search, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._mirror.ask()
            candidate = with_fingerprint(space.suggest(trial))
        frozen = self._mirror.get_trials(deepcopy=False)[trial.number]
        proposal = Proposal(candidate, dict(frozen.params), dict(frozen.distributions), dict(frozen.system_attrs))
        self._mirror.tell(trial, state=TrialState.FAIL)
        return proposal
