"""Proposals: which candidate to try next.

Optuna's samplers work on a mirror of the study in memory, so that a proposal that is turned down (it breaks a constraint, the
DPU cannot run it, it was tried before) never becomes a trial. Trials under way are in the mirror as running ones. Every
proposal's random numbers come from (study seed, trial number, attempt). With one worker a study that goes on after a break so
proposes exactly what it would have without, by every sampler that learns from trials alone (`_samplers.py`); with several, what
a sampler has learnt by the time of a proposal depends on which trials happen to have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from optuna.trial import FrozenTrial

from edgesearch.errors import StudyError
from edgesearch.plugins import calling, is_import_path
from edgesearch.search.proposals._draws import Proposal, derive_seed
from edgesearch.search.proposals._mirror import Mirror
from edgesearch.search.proposals._samplers import check_sampler, make_sampler, needs_parameters
from edgesearch.search.proposals._walk import Dice, Endless, walk
from edgesearch.search.study import StudyFile, with_fingerprint
from edgesearch.spaces import Space

#: After this many proposals in a row that lead nowhere, the sampler is replaced by plain random draws for this trial.
_PATIENCE = 8
#: From this trial on sooner: of thousands of trials the sampler has tried most that it would propose.
_MANY, _LEAST_PATIENCE = 1000, 2
#: After this many the space is walked through systematically.
MAX_ATTEMPTS = 300
#: As many candidates of the space are looked at then, for all trials together.
MAX_WALKED = 100_000


class Proposer:
    """Draws candidates, first those that the study names, then from its space.

    `folder` (default: the study's) is where code of the user's own is looked for first. Raises StudyError for a sampler that
    cannot search the space.
    """

    def __init__(self, settings: StudyFile, *, folder: Path | None = None) -> None:
        self._settings, self._folder = settings, settings.folder if folder is None else folder
        #: What a person should know of the sampler; "" where there is nothing.
        self.warning = check_sampler(settings, folder=self._folder)
        needs = needs_parameters(make_sampler(settings.search, 0, folder=self._folder))
        self._mirror = Mirror(settings.directions, needs_parameters=needs)
        self._walk: Iterator[Proposal] | None = None
        self._is_exhausted = settings.space is None

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended."""
        self._mirror.observe(trial)

    def proposals(self, number: int) -> Iterator[Proposal]:
        """Candidates for trial `number`, one after the other until one is taken; ends when there is none left to propose."""
        yield from self.own()
        space = self._settings.space
        if space is not None:
            for attempt in range(MAX_ATTEMPTS):
                yield self.draw(space, number, attempt, at_random=attempt >= _patience(number))
            if self._walk is None:
                self._walk = self._walked(space)
            yield from (proposal for proposal in self._walk)  # the walk itself would end with one trial's search

    def own(self) -> list[Proposal]:
        """The candidates that the study names."""
        return [Proposal(candidate.canonical()) for candidate in self._settings.candidates]

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

    def draw(self, space: Space, number: int, attempt: int, *, at_random: bool = False) -> Proposal:
        """A candidate of the sampler's, or one drawn at random; the mirror is left as it was."""
        seed = derive_seed(self._settings.seed, number, attempt)
        if at_random:
            dice = Dice(seed)
            return Proposal(with_fingerprint(space.suggest(dice), self._folder), dice.params, dice.distributions, drawn=True)
        name = self._settings.search.sampler
        own = calling(f"sampler {name!r}", StudyError) if is_import_path(name) else nullcontext()
        with own, self._mirror.asked(make_sampler(self._settings.search, seed, folder=self._folder)) as trial:
            candidate = with_fingerprint(space.suggest(trial), self._folder)
            frozen = self._mirror.frozen(trial)
            return Proposal(candidate, dict(frozen.params), dict(frozen.distributions), dict(frozen.system_attrs), drawn=True)

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


def _patience(number: int) -> int:
    """Proposals of the sampler for a trial before random draws take its place."""
    return max(_LEAST_PATIENCE, min(_PATIENCE, _PATIENCE * _MANY // max(number, 1)))
