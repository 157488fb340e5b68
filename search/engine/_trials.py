"""A trial under way: which of its stages are there, and which could run now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from edgesearch.objectives import Artifact, Stage
from edgesearch.spaces import Candidate


@dataclass
class ActiveTrial:
    """A candidate's stages, inputs first, and what is known of them."""

    number: int
    candidate: Candidate
    stages: list[Stage]
    seconds: dict[str, float] = field(default_factory=dict)  # by kind, of the stages that this trial paid for
    hits: list[str] = field(default_factory=list)  # kinds of those that were in the store already
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # by the stage's key
    faults: tuple[dict[str, str], ...] = ()  # of boards that lost its measurement
    student: Stage | None = None  # the training that may be stopped at its rungs
    rungs: tuple[Stage, ...] = ()
    climbed: int = 0  # rungs after which it was judged
    reached: Literal["", "trained", "pruned"] = ""  # behind them, where it was judged last

    def add(self, last: Stage) -> None:
        """Let the candidate need another stage, with all that it needs."""
        known = {stage.key for stage in self.stages}
        self.stages += [stage for stage in last.walk() if stage.key not in known]

    def artifact(self, kind: str) -> Artifact | None:
        """The artifact of the candidate's stage of this kind, if it has one and it is there."""
        return next((self.artifacts.get(stage.key) for stage in self.stages if stage.kind == kind), None)

    @property
    def own_student(self) -> Stage | None:
        """The training of the candidate's student, which its teacher's may look like; None for QAT from scratch."""
        if self.candidate.quantization.from_scratch:
            return None
        return next((stage for stage in reversed(self.stages) if stage.kind == "student"), None)

    def ready(self, find: Callable[[Stage], Artifact | None]) -> list[Stage]:
        """The missing stages that all inputs are there for; `find` looks an artifact up."""
        ready = []
        for stage in self.stages:
            if stage.key in self.artifacts or any(i.key not in self.artifacts for i in stage.inputs.values()):
                continue
            artifact = find(stage)
            if artifact is None:
                ready.append(stage)
                continue
            self.artifacts[stage.key] = artifact
            if stage.kind not in self.seconds:
                self.hits.append(stage.kind)
        return ready

    def pay(self, stage: Stage, seconds: float) -> None:
        """A stage ran for this trial. A training counts with its rungs once it is over, and its rungs alone till then."""
        self.seconds[stage.kind] = self.seconds.get(stage.kind, 0.0) + round(seconds, 3)
        if self.student is not None and stage.key == self.student.key:
            self.seconds[stage.kind] += self.seconds.pop("rung", 0.0)

    def credit(self, paid: set[str], find: Callable[[Stage], Artifact | None]) -> None:
        """Count the stages that are there though no trial has paid for them: a driver died between their end and the trial's.

        `paid` are the keys of those that were paid for, or there when the trial began; the trial's join them.
        """
        for stage in (*self.rungs, *self.stages):
            artifact = None if stage.key in paid else find(stage)
            if artifact is not None:
                paid.add(stage.key)
                self.pay(stage, artifact.seconds)

    def bookkeeping(self) -> dict[str, Any]:
        """What is kept of a trial however it ends, as attributes: what it paid for, what was there, boards that lost it."""
        faults = {"board_faults": list(self.faults)} if self.faults else {}
        return {"stage_seconds": self.seconds, "cache_hits": self.hits, **faults}

    @property
    def is_complete(self) -> bool:
        """Whether every artifact is there."""
        return len(self.artifacts) == len(self.stages)

    @property
    def lacks(self) -> set[str]:
        """The keys of the stages that are not there."""
        return {stage.key for stage in self.stages} - self.artifacts.keys()

    def needs(self, stage: Stage) -> bool:
        """Whether the stage is one of this trial's, or one of its rungs."""
        return any(own.key == stage.key for own in (*self.stages, *self.rungs))

    def waits_for(self) -> Stage:
        """The first stage that is not there yet, the last when all are."""
        return next((stage for stage in self.stages if stage.key not in self.artifacts), self.stages[-1])
