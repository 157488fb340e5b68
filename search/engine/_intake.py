"""What becomes the next trial: a proposal that was not tried before, keeps the hard constraints and is no trial's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from edgesearch.errors import EdgesearchError
from edgesearch.objectives import ArtifactStore, Conditions, Stage
from edgesearch.search.engine._asking import Asking
from edgesearch.search.engine._hard_limits import HardLimits
from edgesearch.search.engine._plans import Plans
from edgesearch.search.engine._rejections import Rejections
from edgesearch.search.engine._repeats import Networks
from edgesearch.search.engine._retries import Failure
from edgesearch.search.engine._screening import Screening
from edgesearch.search.engine._stopping import Stopping
from edgesearch.search.foresight import Foresight, Pending, Scoring
from edgesearch.search.proposals import Proposal
from edgesearch.search.study import StudyFile, attributes_of, candidate_of
from edgesearch.spaces import Candidate

__all__ = ["Accepted", "Intake"]


class Accepted(NamedTuple):
    """A proposal that becomes a trial, its metrics before training, its network's key, and how long it was looked for."""

    proposal: Proposal
    estimate: dict[str, float]
    network: str
    seconds: float


class Intake:
    """Looks at proposals for one study, whose attributes say what was counted so far.

    Raises StudyError for a sampler that cannot search the study's space.
    """

    def __init__(
        self,
        settings: StudyFile,
        attributes: Mapping[str, Any],
        *,
        conditions: Conditions,
        estimator: Foresight,
        scoring: Scoring,
        limits: HardLimits,
        stopping: Stopping,
        store: ArtifactStore,
        plans: Plans,
        note: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self._estimator, self._stopping, self._note = estimator, stopping, note
        self._screening = Screening(settings, estimator, scoring, limits, plans.stages)
        self._asking = Asking(
            settings,
            conditions=conditions,
            screening=self._screening,
            store=store,
            was_tried=lambda key: key in self._seen,
            has_network=lambda key: self._networks.knows(key),
            folder=folder,
        )
        if self._asking.warning:
            note(f"warning: {self._asking.warning}")
        self._search: Iterator[Proposal | None] | None = None  # for the next trial
        self._unknown: Proposal | None = None  # of which it is being found out what it is like
        self._began = 0.0
        self._seen: set[str] = set()  # candidate keys
        self._rejected: set[str] = set()  # those of them that no trial has
        self._again = 0  # proposals that a trial had, since the last that became one
        self._networks = Networks(int(attributes.get("repeats", 0)), note=note)
        self.rejections = Rejections(settings.constraints, attributes, note=note)
        self._before = self.repeats
        self._retry: list[Proposal] = []
        #: Keys of candidates to be tried again that may still become trials, or did.
        self.retried: set[str] = set()
        #: Whether nothing is left to propose.
        self.exhausted = False

    # --- what is known

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended."""
        self._asking.observe(trial)

    def remaining_seconds(self, stages: Iterable[Stage]) -> float:
        """Expected seconds of stages, one after the other."""
        return self._asking.remaining_seconds(stages)

    def has(self, candidate: Candidate, network: str | None, number: int) -> None:
        """A trial has the candidate, and this network."""
        self._seen.add(candidate.key)
        if network is not None:
            self._networks.add(network, number, candidate)

    def try_again(self, failures: Iterable[Failure]) -> None:
        """Propose these first."""
        self._retry = [Proposal(each.candidate, each.trial.params, each.trial.distributions) for each in failures]
        self.retried = {proposal.key for proposal in self._retry}

    @property
    def repeats(self) -> int:
        """Proposals that a trial had before; those of a search that found nothing, as the last one's, do not count."""
        return self._networks.repeats

    @property
    def in_this_run(self) -> tuple[int, int]:
        """Candidates that were rejected, and repeats, without those of earlier runs."""
        return self.rejections.in_this_run, self.repeats - self._before

    def tallies(self) -> dict[str, Any]:
        """What a study keeps of it, where there is something to keep."""
        return self.rejections.attributes() | ({"repeats": self.repeats} if self.repeats else {})

    # --- proposals

    def look(self, number: int) -> Accepted | None:
        """Look at one proposal for trial `number`; None where it does not become one, none is left, or it is not known yet."""
        if self._search is None:
            self._search, self._began = self._proposals(number), time.perf_counter()
        try:
            proposal, self._unknown = self._unknown or next(self._search), None
        except StopIteration:
            if not self.exhausted:
                self._note(self._asking.why_none_is_left())
            self._search, self.exhausted, self._again = None, True, 0
            return None
        if proposal is None:
            return None
        accepted = None
        try:
            if proposal.key in self._seen:
                self._again += proposal.drawn if proposal.key not in self._rejected else 0
            else:
                accepted = self._judge(proposal)
        except Pending:
            self._unknown = proposal
            return None
        if accepted is None:
            self.retried.discard(proposal.key)
        return accepted

    def _judge(self, proposal: Proposal) -> Accepted | None:
        estimate = self._screen(proposal)
        self._seen.add(proposal.key)
        if estimate is None:
            self._rejected.add(proposal.key)
            return None
        network = self._estimator.network_key(proposal.candidate)
        if (reach := self._estimator.beyond_reach(proposal.candidate)) is not None:
            self._networks.reached(network, proposal.candidate, reach)
        if self._networks.has(network, proposal.candidate):
            return None
        self._networks.repeats += self._again
        self._search, self._again = None, 0
        return Accepted(proposal, estimate, network, time.perf_counter() - self._began)

    def _proposals(self, number: int) -> Iterator[Proposal | None]:
        while self._retry:
            yield self._retry.pop(0)
        while (stopped := self._stopping.again()) is not None:
            candidate = candidate_of(stopped)
            self._seen.discard(candidate.key)
            self._networks.forget(attributes_of(stopped)["network_key"])
            yield Proposal(candidate, stopped.params, stopped.distributions, again=stopped.number)
        yield from self._asking.proposals(number, self._seen)

    def _screen(self, proposal: Proposal) -> dict[str, float] | None:
        """The metrics known before training, or None when a hard constraint or the DPU rules the candidate out."""
        try:
            estimate, known, violations = self._screening.of(proposal.candidate)
        except EdgesearchError as error:
            self.rejections.unsupported(proposal.candidate, error)
            return None
        if violations:
            self.rejections.violated(proposal.candidate, known, violations)
        return None if violations else estimate
