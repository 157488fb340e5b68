"""Which proposal comes next: the one that is expected to gain most hypervolume for the seconds of the stages that it lacks.

The sampler's own ask takes every fifth trial, so that neither the model of accuracies nor that of costs can starve what they
know nothing of. For the others random draws and variants of students that are trained, or in training, stand beside each other:
asks of the sampler beside them gained nothing, and cost more than all the rest. What comes out depends on the study's seed, the
trial's number and what was told before: accuracies, and recorded seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from edgesearch.objectives import Stage, is_shared
from edgesearch.search.foresight import Expectation, Pending, StageCosts, chance
from edgesearch.search.proposals._accuracy import AccuracyModel, probability
from edgesearch.search.proposals._coordinates import Axes, Point, Rows
from edgesearch.search.proposals._draws import Proposal, derive_seed
from edgesearch.search.proposals._gain import Goal, Landscape, likely_accuracies
from edgesearch.search.proposals._options import Variants, training_key
from edgesearch.search.proposals._proposals import Proposer
from edgesearch.search.study import OBJECTIVES, Objective, StudyFile, attributes_of, candidate_of, estimate_of, with_fingerprint
from edgesearch.spaces import Candidate, Student

__all__ = ["Chooser", "Insight"]

#: Every so many trials are the sampler's own.
_OWN_SHARE = 5
#: Finished trials before a choice rests on them.
_LEAST = 8
#: Random draws beside the variants.
_DRAWS = 8
#: Attempts of a trial that random draws are counted from, beyond all of the sampler's.
_RANDOM = 1000
#: What a candidate is charged of stages that many candidates share, if it is the first to need them.
_SHARED = 0.35
#: Seconds that a trial costs beside its stages.
_TRIAL_SECONDS = 0.5
#: Candidates of which what is known is kept.
_KEPT = 8192


class Insight(Protocol):
    """What the engine knows of candidates that are no trials yet."""

    @property
    def revision(self) -> int:
        """Another number once figures are expected otherwise."""

    def was_tried(self, key: str) -> bool:
        """Whether the candidate with this key was tried or ruled out."""

    def network(self, candidate: Candidate) -> str | None:
        """A key that candidates share whose networks are layer by layer the same; None where it cannot be built."""

    def has_network(self, key: str) -> bool:
        """Whether a trial has the network with this key."""

    def expected(self, candidate: Candidate) -> Mapping[str, float] | None:
        """Its metrics before training; None where a hard constraint or the DPU rules it out."""

    def stages(self, candidate: Candidate) -> Sequence[Stage]:
        """All its stages, inputs first."""

    def is_there(self, kind: str, key: str) -> bool:
        """Whether a stage's artifact is in the store, or a trial under way will put it there."""

    def macs(self, student: Student) -> float:
        """Multiply-accumulates of one image; 0 where they cannot be told."""


@dataclass(frozen=True)
class _Facts:
    """What is known of one candidate: its coordinates, its losses but for the accuracy's, and for each of its stages kind and
    key, what its seconds are expected from, and the share of these that it is charged; how likely it keeps its limits.
    """

    row: Rows
    losses: tuple[float, ...]
    network: str
    stages: tuple[tuple[str, str], ...]
    expectations: tuple[Expectation, ...]
    shares: NDArray[np.float64]
    chance: float


class Chooser:
    """Chooses proposals for one study with a space. `costs` learn from the same trials before it does."""

    def __init__(self, settings: StudyFile, proposer: Proposer, insight: Insight, costs: StageCosts) -> None:
        assert settings.space is not None  # without one there is nothing to choose
        self._settings, self._space, self._proposer, self._insight = settings, settings.space, proposer, insight
        objectives = tuple(Objective(name, OBJECTIVES[name] == "maximize") for name in settings.objectives)
        self._goal = Goal(objectives, settings.constraints)
        self._axes = Axes()
        self._accuracies = AccuracyModel(self._axes)
        self._costs = costs
        self._variants = Variants(
            self._space, settings.seed, settings.candidates, complete=lambda c: with_fingerprint(c, settings.folder)
        )
        self._running: dict[int, tuple[Rows, Mapping[str, float]]] = {}
        self._front: list[tuple[tuple[float, ...], str]] = []  # losses, training
        self._seen_losses: list[tuple[float, ...]] = []  # the worst and the best
        self._facts: dict[str, _Facts | None] = {}
        self._revision = insight.revision

    # --- learning

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended."""
        attributes, candidate = attributes_of(trial), candidate_of(trial)
        estimate = estimate_of(attributes)
        row = self._axes.row(Point.of(candidate, estimate))
        self._running.pop(trial.number, None)
        self._variants.observe(trial, candidate)
        if trial.state == TrialState.RUNNING:
            self._running[trial.number] = (row, estimate)
            return
        if trial.state == TrialState.PRUNED and "student" in attributes.get("stopped", {}) and self._goal.accuracy is not None:
            self._accuracies.add(trial.number, row, float(attributes["stopped"]["values"][self._goal.accuracy]))
        if trial.state != TrialState.COMPLETE or trial.values is None:
            return
        accuracy = attributes.get("accuracy")
        if isinstance(accuracy, int | float):
            self._accuracies.add(trial.number, row, float(accuracy))
        if attributes.get("deployable", True) and not attributes.get("violations"):
            losses = self._goal.losses(dict(zip(self._settings.objectives, trial.values, strict=True)))
            self._conquer(losses, training_key(candidate.student, candidate.distillation))

    def _conquer(self, losses: tuple[float, ...], training: str) -> None:
        if not np.isfinite(losses).all():
            return
        ends = np.array([*self._seen_losses, losses])
        self._seen_losses = [tuple(ends.max(axis=0).tolist()), tuple(ends.min(axis=0).tolist())]
        for place, (member, other) in enumerate(self._front):
            if member == losses:  # whichever came first
                self._front[place] = (member, min(other, training))
            if all(a <= b for a, b in zip(member, losses, strict=True)):
                return
        beaten = [all(b <= a for a, b in zip(member, losses, strict=True)) for member, _ in self._front]
        self._front = [kept for kept, is_beaten in zip(self._front, beaten, strict=True) if not is_beaten]
        self._front.append((losses, training))

    # --- choosing

    def choose(self, number: int) -> Proposal | None:
        """The proposal for trial `number`; None where it is the sampler's turn, or too little is known. Raises Pending."""
        if number % _OWN_SHARE == 0 or len(self._accuracies) < _LEAST:
            return None
        if self._revision != self._insight.revision or len(self._facts) > _KEPT:
            self._facts, self._revision = {}, self._insight.revision
        options = self._options(number)
        if not options:
            return None
        scores = self._scores([facts for _, facts in options], number)
        # Of what rounding alone parts, which depends on the order in which trials ended, the first counts.
        best = int(np.argmax(np.round(scores / max(float(scores.max()), 1e-300), 9)))
        return options[best][0] if scores[best] > 0 else None

    def _options(self, number: int) -> list[tuple[Proposal, _Facts]]:
        draws = [self._proposer.draw(self._space, number, _RANDOM + i, at_random=True) for i in range(_DRAWS)]
        options: dict[str, tuple[Proposal, _Facts]] = {}
        is_pending = False
        for proposal in (*draws, *self._variants.proposals(number, [training for _, training in sorted(self._front)])):
            key = proposal.key
            if key in options or not proposal.candidate.deployable or self._insight.was_tried(key):
                continue
            try:
                facts = self._known(proposal)
            except Pending:
                is_pending = True
                continue
            if facts is not None and not self._insight.has_network(facts.network):
                options[key] = (proposal, facts)
        if is_pending:
            raise Pending
        return list(options.values())

    def _known(self, proposal: Proposal) -> _Facts | None:
        if proposal.key not in self._facts:
            self._facts[proposal.key] = self._look(proposal.candidate)
        return self._facts[proposal.key]

    def _look(self, candidate: Candidate) -> _Facts | None:
        metrics, network = self._insight.expected(candidate), self._insight.network(candidate)
        if metrics is None or network is None:
            return None
        stages = self._insight.stages(candidate)
        return _Facts(
            self._axes.row(Point.of(candidate, metrics)),
            self._goal.losses({**metrics, "accuracy": 0.0}),
            network,
            tuple((sys.intern(stage.kind), sys.intern(stage.key)) for stage in stages),
            tuple(self._costs.expectation(stage) for stage in stages),
            np.array([_SHARED if is_shared(stage) else 1.0 for stage in stages]),
            chance(metrics, candidate.pruning, self._settings.constraints),
        )

    def _scores(self, options: Sequence[_Facts], number: int) -> NDArray[np.float64]:
        """Expected gain per second."""
        running, count = [self._running[number] for number in sorted(self._running)], len(options)
        rows = self._axes.join([*(option.row for option in options), *(row for row, _ in running)])
        mean, deviation = self._accuracies.predict(rows)
        likely = probability(mean)
        expected = [
            self._goal.losses({**metrics, "accuracy": float(accuracy)})
            for (_, metrics), accuracy in zip(running, likely[count:], strict=True)
        ]
        losses = np.array([option.losses for option in options])
        middle = losses.copy()
        if self._goal.accuracy is not None:
            middle[:, self._goal.accuracy] = -likely[:count]
        known = [losses for losses, _ in self._front] + expected
        landscape = Landscape(
            self._goal, known, [*self._seen_losses, *middle.tolist()], seed=derive_seed(self._settings.seed, number)
        )
        accuracies = likely_accuracies(mean[:count], deviation[:count])
        chances = np.array([option.chance for option in options])
        return np.asarray(landscape.expected(losses, accuracies) * chances / self._seconds(options))

    def _seconds(self, options: Sequence[_Facts]) -> NDArray[np.float64]:
        """What each option is charged."""
        is_there = [self._insight.is_there(kind, key) for option in options for kind, key in option.stages]
        seconds = self._costs.seconds([expectation for option in options for expectation in option.expectations])
        charged = np.where(is_there, 0.0, seconds * np.concatenate([option.shares for option in options]))
        owners = np.repeat(np.arange(len(options)), [len(option.stages) for option in options])
        return np.asarray(_TRIAL_SECONDS + np.bincount(owners, charged, len(options)))
