"""Whom the engine asks for proposals: the sampler, or who chooses between its asks and others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from optuna.trial import FrozenTrial

from edgesearch.objectives import ArtifactStore, Conditions, Counts, Stage
from edgesearch.search.engine._hard_limits import is_cut_off
from edgesearch.search.engine._insight import EngineInsight
from edgesearch.search.engine._screening import Screening
from edgesearch.search.engine._stopping import foretold
from edgesearch.search.foresight import Pending, StageCosts
from edgesearch.search.proposals import Chooser, Proposal, Proposer
from edgesearch.search.study import StudyFile, TrialAttributes, attributes_of, candidate_of

__all__ = ["Asking"]

#: Trials that costs are learnt from where nobody has asked for them before.
_PAID = 512


class Asking:
    """Proposals for one study. `was_tried` says of a candidate's key whether it was tried or ruled out, `has_network` of a
    network's whether a trial has it.

    Raises StudyError for a sampler that cannot search the study's space.
    """

    def __init__(
        self,
        settings: StudyFile,
        *,
        conditions: Conditions,
        screening: Screening,
        store: ArtifactStore,
        was_tried: Callable[[str], bool],
        has_network: Callable[[str], bool],
        folder: Path | None = None,
    ) -> None:
        self._proposer = Proposer(settings, folder=folder)
        self._own = {proposal.key for proposal in self._proposer.own()}
        self._insight = EngineInsight(screening=screening, store=store, was_tried=was_tried, has_network=has_network)
        self._costs = StageCosts(self._insight.macs, Counts.of(conditions.images), bfloat16=conditions.bfloat16)
        self._paid: deque[FrozenTrial] = deque(maxlen=_PAID)  # trials that the costs have not learnt from
        self._chooser: Chooser | None = None
        if settings.search.proposals == "cost_aware" and settings.space is not None:
            self._chooser = Chooser(settings, self._proposer, self._insight, self._costs)

    def observe(self, trial: FrozenTrial) -> None:
        """Learn that a trial runs, or how it ended."""
        self._proposer.observe(foretold(trial))
        if attributes_of(trial).get("stage_seconds"):
            self._paid.append(trial)
        if self._chooser is not None:
            self._learn_costs()
            self._insight.observe(trial)
            self._chooser.observe(trial)

    def proposals(self, number: int, seen: set[str]) -> Iterator[Proposal | None]:
        """Candidates for trial `number`, one after the other until one is taken; `seen` are the keys of those that were.

        None where what one is chosen from is not known yet.
        """
        while self._chooser is not None and self._own <= seen:
            try:
                choice = self._chooser.choose(number)
            except Pending:
                yield None
                continue
            if choice is not None:
                yield choice
            break
        yield from self._proposer.proposals(number)

    def remaining_seconds(self, stages: Iterable[Stage]) -> float:
        """Expected seconds of stages, one after the other; 0 while nobody knows yet how large their networks are."""
        self._learn_costs()
        try:
            return self._costs.remaining(stages)
        except Pending:
            return 0.0

    def _learn_costs(self) -> None:
        while self._paid:  # without a chooser once somebody asks, since a student's size is found by building it
            stages = self._insight.stages(candidate_of(self._paid[0]))
            try:
                self._costs.learn(stages, whole_stages(attributes_of(self._paid[0])))
            except Pending:
                return  # next time
            self._paid.popleft()

    @property
    def warning(self) -> str:
        """What a person should know of the sampler; "" where there is nothing."""
        return self._proposer.warning

    def why_none_is_left(self) -> str:
        """Once `proposals` came to its end: one sentence."""
        return self._proposer.why_none_is_left()


def whole_stages(attributes: TrialAttributes) -> dict[str, float]:
    """Seconds of a trial's stages by their kind, without one that was cut off since its network broke a limit."""
    seconds, cut = attributes["stage_seconds"], is_cut_off(attributes)
    return {kind: value for kind, value in seconds.items() if not (cut and kind in ("pruned", "quantized"))}
