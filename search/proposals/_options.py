"""What a proposal is chosen from: draws from the whole space, and late-stage variants of students that the study trains."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.proposals._draws import Proposal, derive_seed
from edgesearch.search.proposals._walk import Endless, Recorded, walk_choices
from edgesearch.spaces import Candidate, Distillation, Space, Student

__all__ = ["Trained", "Variants"]

#: Values of a range without steps that are tried.
_GRID = 9
#: Ways to prune that are tried of one student, and those that are walked to choose them from.
_NETWORKS, _WALKED = 16, 2000
#: As many of them more are looked at with every trial after the student's first, so that no proposal looks at all.
_MORE = 6
#: Students whose variants are tried: those behind the front, then the latest.
_STUDENTS = 24
#: Ways through the first half of the space that are looked at for the parameters of the study's own candidates.
_OWN = 256


@dataclass(frozen=True)
class Trained:
    """A student as it is taught, since which trial, and the parameters that the sampler knows it by."""

    student: Student
    distillation: Distillation
    since: int
    params: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same training."""
        return training_key(self.student, self.distillation)


def training_key(student: Student, distillation: Distillation) -> str:
    """The same for the same student taught in the same way."""
    return f"{student.model_dump_json()} {distillation.model_dump_json()}"


class Variants:
    """Knows the students of a study's trials, and the candidates that share their training.

    `own` are the study's own candidates; `complete` gives a candidate the checksums of the code that it names.
    """

    def __init__(
        self, space: Space, seed: int, own: Sequence[Candidate], *, complete: Callable[[Candidate], Candidate]
    ) -> None:
        self._space, self._seed, self._complete = space, seed, complete
        self._trained: dict[str, Trained] = {}
        self._trials: dict[str, set[int]] = {}  # training -> its trials, without those that failed
        self._of: dict[str, list[list[Proposal]]] = {}  # training -> for each way to prune its candidates
        self._own = {training_key(c.student, c.distillation) for c in map(Candidate.canonical, own)}
        self._paths: dict[str, Trained] | None = None

    def observe(self, trial: FrozenTrial, candidate: Candidate) -> None:
        """Learn of a trial that runs or has ended; one that failed takes back what only it had.

        What is known does not depend on the order in which trials ended.
        """
        key = training_key(candidate.student, candidate.distillation)
        if trial.state == TrialState.FAIL:
            self._forget(key, trial.number)
            return
        if key not in self._trained:
            found = self._named(key) if key in self._own and not trial.params else self._drawn(trial, candidate)
            if found is None:
                return
            self._trained[key] = Trained(
                candidate.student, candidate.distillation, trial.number, found.params, found.distributions
            )
        trials = self._trials.setdefault(key, set())
        trials.add(trial.number)
        self._trained[key] = replace(self._trained[key], since=min(trials))

    def _forget(self, key: str, number: int) -> None:
        trials = self._trials.get(key, set())
        trials.discard(number)
        if trials:
            self._trained[key] = replace(self._trained[key], since=min(trials))
        elif key in self._trained:
            del self._trained[key], self._trials[key]

    def proposals(self, number: int, best: Iterable[str]) -> Iterator[Proposal]:
        """Variants for trial `number`; `best` are the trainings behind the front."""
        first = [key for key in dict.fromkeys(best) if key in self._trained]
        latest = sorted((key for key in self._trained if key not in first), key=lambda key: -self._trained[key].since)
        for key in [*first, *latest][:_STUDENTS]:
            trained = self._trained[key]
            if key not in self._of:
                self._of[key] = self._all(trained)
            for ways in self._of[key][: _MORE * max(1, number - trained.since)]:
                yield from ways
        for key in set(self._of) - set([*first, *latest][:_STUDENTS]):
            del self._of[key]  # ten thousand trials have more than memory should keep

    def _all(self, trained: Trained) -> list[list[Proposal]]:
        by_network: dict[str, list[Proposal]] = {}
        paths = walk_choices(
            lambda trial: self._space.suggest_compression(trial, trained.student, trained.distillation), grid=_GRID
        )
        for _, (candidate, path) in zip(range(_WALKED), paths, strict=False):
            proposal = Proposal(
                self._complete(candidate),
                {**trained.params, **path.params},
                {**trained.distributions, **path.distributions},
                drawn=True,
            )
            if candidate.deployable:
                by_network.setdefault(candidate.pruning.model_dump_json(), []).append(proposal)
        ways = list(by_network.values())
        random.Random(derive_seed(self._seed, trained.key)).shuffle(ways)
        return ways[:_NETWORKS]

    def _drawn(self, trial: FrozenTrial, candidate: Candidate) -> Trained | None:
        recorded = Recorded(trial.params)
        try:
            self._space.suggest_training(recorded)
        except (KeyError, ValueError):  # a candidate of the study's own that the space does not have
            return None
        asked = [name for name in recorded.asked if name in trial.params]
        params = {name: trial.params[name] for name in asked}
        distributions = {name: trial.distributions[name] for name in asked if name in trial.distributions}
        return Trained(candidate.student, candidate.distillation, trial.number, params, distributions)

    def _named(self, key: str) -> Trained | None:
        """A candidate of the study's own, where the space has its first half, too."""
        if self._paths is None:
            self._paths = {}
            try:
                for _, ((student, distillation), path) in zip(
                    range(_OWN), walk_choices(self._space.suggest_training), strict=False
                ):
                    whole = Candidate(student=student, distillation=distillation).canonical()
                    found = Trained(whole.student, whole.distillation, 0, path.params, path.distributions)
                    self._paths.setdefault(found.key, found)
            except Endless:
                pass
        return self._paths.get(key)
