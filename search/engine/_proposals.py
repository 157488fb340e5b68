"""Proposals: which candidate to try next.

Optuna's samplers work on a mirror of the study in memory, so that a proposal that is turned down (it breaks a constraint, the
DPU cannot run it, it was tried before) never becomes a trial. Trials under way are in the mirror as running ones. Every
proposal's random numbers come from (study seed, trial number, attempt). With one worker a study that goes on after a break so
proposes exactly what it would have without; with several, what a sampler has learnt by the time of a proposal depends on
which trials happen to have ended.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.engine._samplers import check_sampler, make_sampler, needs_parameters
from edgesearch.search.engine._walk import Endless, walk
from edgesearch.search.study import StudyFile, quiet_optuna, with_fingerprint
from edgesearch.spaces import Candidate, Space

#: After this many proposals in a row that lead nowhere, the sampler is replaced by plain random draws for this trial.
_PATIENCE = 8
#: After this many the space is walked through systematically.
MAX_ATTEMPTS = 300
#: As many candidates of the space are looked at then, for all trials together.
MAX_WALKED = 100_000


@dataclass(frozen=True)
class Proposal:
    """A candidate, and what Optuna wants to know of how it was drawn. `drawn`: from the space, not named by the study."""

    candidate: Candidate
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**31 from the given parts, the same on every machine."""
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) & 0x7FFFFFFF


class Proposer:
    """Draws candidates, first those that the study names, then from its space.

    `folder` (default: the study's) is where code of the user's own is looked for first. Raises StudyError for a sampler that
    cannot search the space.
    """

    def __init__(self, settings: StudyFile, *, folder: Path | None = None) -> None:
        self._settings, self._folder = settings, settings.folder if folder is None else folder
        check_sampler(settings, folder=self._folder)
        with quiet_optuna():
            self._mirror = optuna.create_study(directions=list(settings.directions))
        self._needs_parameters = needs_parameters(make_sampler(settings.search, 0, folder=self._folder))
        self._running: dict[int, int] = {}  # trial number -> the mirror's own id of that trial
        self._walk: Iterator[Proposal] | None = None
        self._is_exhausted = settings.space is None

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended."""
        storage, known = self._mirror._storage, self._running.pop(trial.number, None)
        if known is not None:
            for name, value in trial.system_attrs.items():  # its constraints among them
                storage.set_trial_system_attr(known, name, value)
            storage.set_trial_state_values(known, trial.state, trial.values)
        elif trial.state not in (TrialState.COMPLETE, TrialState.RUNNING):
            return  # samplers do not use failed trials
        elif trial.params or not self._needs_parameters:
            identity = storage.create_new_trial(self._mirror._study_id, template_trial=_drawn(trial))
            if trial.state == TrialState.RUNNING:
                self._running[trial.number] = identity

    def proposals(self, number: int) -> Iterator[Proposal]:
        """Candidates for trial `number`, one after the other until one is taken; ends when there is none left to propose."""
        for candidate in self._settings.candidates:
            yield Proposal(candidate.canonical())
        space = self._settings.space
        if space is not None:
            for attempt in range(MAX_ATTEMPTS):
                yield self._draw(space, number, attempt)
            if self._walk is None:
                self._walk = self._walked(space)
            yield from self._walk

    def why_none_is_left(self) -> str:
        """Once `proposals` came to its end: one sentence."""
        if self._settings.space is None:
            return "every candidate that the study names was tried; the study ends here"
        if self._is_exhausted:
            return "the space has no more candidates that were not tried or rejected; the study ends here"
        return (
            f"{MAX_ATTEMPTS} draws in a row, and a walk through the space, led to nothing but candidates that were tried or "
            "rejected before; the study ends here, though the space has more: widen it, or relax the constraints"
        )

    def _draw(self, space: Space, number: int, attempt: int) -> Proposal:
        seed = derive_seed(self._settings.seed, number, attempt)
        with quiet_optuna():
            self._mirror.sampler = (
                RandomSampler(seed=seed)
                if attempt >= _PATIENCE
                else make_sampler(self._settings.search, seed, folder=self._folder)
            )
            trial = self._mirror.ask()
            candidate = with_fingerprint(space.suggest(trial), self._folder)
            frozen = self._mirror.get_trials(deepcopy=False)[trial.number]
            proposal = Proposal(
                candidate, dict(frozen.params), dict(frozen.distributions), dict(frozen.system_attrs), drawn=True
            )
            self._mirror.tell(trial, state=TrialState.FAIL)
        return proposal

    def _walked(self, space: Space) -> Iterator[Proposal]:
        """The space's candidates that can be counted, once for all trials."""
        try:
            for count, (candidate, path) in enumerate(walk(space)):
                if count >= MAX_WALKED:
                    return
                yield Proposal(with_fingerprint(candidate, self._folder), path.params, path.distributions, drawn=True)
        except Endless:
            return
        self._is_exhausted = True


def _drawn(trial: FrozenTrial) -> FrozenTrial:
    """What samplers read of a trial; its figures would be many megabytes in the mirror."""
    drawn = copy.copy(trial)
    drawn._user_attrs = {}
    return drawn
