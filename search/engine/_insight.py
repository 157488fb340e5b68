"""What the engine knows of candidates that are no trials yet: for those who choose between proposals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from edgesearch.errors import EdgesearchError
from edgesearch.objectives import ArtifactStore, Stage
from edgesearch.search.engine._screening import Screening
from edgesearch.search.foresight import bare
from edgesearch.search.study import candidate_of
from edgesearch.spaces import Candidate, Student

__all__ = ["EngineInsight"]


class EngineInsight:
    """See `Insight`. `was_tried` tells by a candidate's key whether it was tried or ruled
    out, `has_network` by a network's whether a trial has it. What is being found out raises Pending.
    """

    def __init__(
        self,
        *,
        screening: Screening,
        store: ArtifactStore,
        was_tried: Callable[[str], bool],
        has_network: Callable[[str], bool],
    ) -> None:
        self._screening, self._estimator, self._store = screening, screening.estimator, store
        self.was_tried, self.has_network = was_tried, has_network
        self._there: dict[str, bool] = {}  # by the stage's key
        self._underway: dict[int, frozenset[str]] = {}  # trial -> keys of its stages
        self._makers: Counter[str] = Counter()  # of a stage's key: trials under way
        self._macs: dict[str, float] = {}  # by student

    @property
    def revision(self) -> int:
        """Grows with what may change what is expected."""
        return self._screening.revision

    def observe(self, trial: FrozenTrial) -> None:
        """Learn which stages a trial makes, or has made."""
        before = self._underway.pop(trial.number, frozenset())
        self._makers.subtract(before)
        if trial.state == TrialState.RUNNING:
            self._underway[trial.number] = frozenset(stage.key for stage in self.stages(candidate_of(trial)))
            self._makers.update(self._underway[trial.number])
        for key in before:
            self._there.pop(key, None)  # asked for anew: a trial that fails has made some
            if not self._makers[key]:
                del self._makers[key]

    def network(self, candidate: Candidate) -> str | None:
        """The key of the candidate's network; None where it cannot be built."""
        try:
            return self._estimator.network_key(candidate)
        except EdgesearchError:
            return None

    def expected(self, candidate: Candidate) -> Mapping[str, float] | None:
        """Its metrics before training; None where a hard constraint or the DPU rules it out."""
        try:
            screened = self._screening.of(candidate)
        except EdgesearchError:
            return None
        return None if screened.violations else screened.estimate

    def stages(self, candidate: Candidate) -> Sequence[Stage]:
        """All its stages, inputs first."""
        return self._screening.stages(candidate)

    def is_there(self, kind: str, key: str) -> bool:
        """Whether a stage's artifact is in the store, or a trial under way will put it there."""
        if key in self._makers:
            return True
        if key not in self._there:
            self._there[key] = self._store.has(kind, key)
        return self._there[key]

    def macs(self, student: Student) -> float:
        """Multiply-accumulates of one image; 0 where they cannot be told."""
        key = student.model_dump_json()
        if key not in self._macs:
            try:
                self._macs[key] = self._estimator.estimate(bare(student))["macs"]
            except (EdgesearchError, LookupError):
                self._macs[key] = 0.0
        return self._macs[key]
