"""What is known of candidates and stages before they run: found out here while nothing else does, beside the driver else.

To build and time a large network takes seconds, to prune it by the DPU's time many times as long. Meanwhile nobody would
collect what workers finished and give them more. Answers are the same wherever they are found.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgesearch.board_eval import Board, Compiler, Feature, find_board
from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.objectives import Conditions, Estimator, Facts, Pipeline, Stage, StageMemory
from edgesearch.search.processes import Died, ForkServer, LineProcess, memory_kills
from edgesearch.search.study import duration
from edgesearch.spaces import Candidate, Student

__all__ = ["Foresight", "ForesightProcess", "ForesightSettings", "Pending"]

T = TypeVar("T")

#: What a question is about, the first part of its key.
CANDIDATE, STAGE = "candidate ", "stage "
#: A question that so many processes ended at has itself to blame, and one of those that ended for want of memory.
_DEATHS, _MEMORY_DEATHS = 2, 5
#: So often the process may not be there, for a reason of the machine's, until an answer comes; seconds before the next try.
_FAULTS, _PAUSE_S = 5, 2.0
#: Seconds for an answer; a process that needs more hangs, as in a network of the user's.
_ANSWER_S = 900.0
#: Seconds to wait at a time: most often, and at first while an answer may come.
_WAIT_S, _SOON_S = 0.25, 0.004


class Pending(Exception):
    """The answer is being found out; ask again."""


@dataclass(frozen=True)
class ForesightSettings:
    """How another process makes the estimator and the forecast of memory, and finds the user's code; see `find_board`."""

    board: str
    compiler: Compiler
    allow: tuple[Feature, ...]
    source_sha256: str
    channels: int
    classes: int
    images: Mapping[str, int]
    size: tuple[int, int]
    #: A `Pipeline`, as JSON.
    pipeline: Mapping[str, Any]
    folder: str
    python_path: tuple[str, ...]


class ForesightProcess:
    """A process that answers questions one after the other, those about stages first: for them workers wait.

    `server`: what it is forked from; None: a fork server of its own.
    """

    def __init__(self, settings: ForesightSettings, server: ForkServer | None = None) -> None:
        self._settings = asdict(settings)
        self._process = LineProcess("edgesearch.search.foresight._foresight_process:foresee", server)
        self._waiting: dict[str, dict[str, Any]] = {}  # by key
        self._asked: str | None = None
        self._question: dict[str, Any] = {}  # that was asked
        self._asked_at = 0.0
        self._answers: dict[str, dict[str, Any]] = {}
        self._deaths: Counter[str] = Counter()
        self._kills = 0  # of this machine for want of memory, when it was asked
        self._faults = 0  # of the machine since an answer came
        self._again_at: float | None = None  # when it is asked once more
        #: How many answers have come.
        self.answered = 0

    def start(self) -> None:
        """Start it before it is asked anything: that takes seconds."""
        with suppress(Died):  # told when it is asked
            self._process.start()

    def close(self) -> None:
        """Stop it."""
        self._process.close()

    def ask(self, key: str, question: Mapping[str, Any]) -> None:
        """Ask, unless this was asked and not answered yet."""
        if key != self._asked:
            self._waiting.setdefault(key, dict(question))
        self._step()

    def take(self, key: str) -> dict[str, Any] | None:
        """The answer, if it has come; it is given once."""
        self._step()
        return self._answers.pop(key, None)

    def is_asked(self, key: str) -> bool:
        """Whether this was asked and not answered yet."""
        return key == self._asked or key in self._waiting

    def is_busy(self, what: str = "") -> bool:
        """Whether a question of this sort, or any, was asked and not answered yet."""
        self._step()
        return any(key is not None and key.startswith(what) for key in (self._asked, *self._waiting))

    def _step(self) -> None:
        """Read an answer that is there; then ask the next question."""
        if self._again_at is not None:
            if time.monotonic() < self._again_at:
                return
            self._again_at = None
            self._put()
        if self._asked is not None:
            try:
                answer = self._process.answer(0.0)
                if answer is None and time.monotonic() - self._asked_at > _ANSWER_S:
                    self._process.end()
                    raise Died(f"gave no answer for {duration(_ANSWER_S)}", alone=True)
            except Died as death:
                answer = self._after(self._asked, death)
            if answer is None:
                return
            self._answers[self._asked], self._asked, self._faults = answer, None, 0
            self.answered += 1
        if self._waiting:
            key = min(self._waiting, key=lambda key: not key.startswith(STAGE))
            self._asked, self._question = key, {"settings": self._settings, **self._waiting.pop(key)}
            self._put()

    def _put(self) -> None:
        self._asked_at, self._kills = time.monotonic(), memory_kills()
        self._process.ask(self._question)

    def _after(self, key: str, death: Died) -> dict[str, Any] | None:
        """What is answered in the place of a process that died; None where another one is asked.

        Raises StudyError where this machine starts none.
        """
        if death.alone:
            self._deaths[key] += 1
            has_memory = memory_kills() == self._kills
            if self._deaths[key] >= (_DEATHS if has_memory else _MEMORY_DEATHS):
                return {"error": f"the process that was to tell its speed and size {death}"}
            self._again_at = time.monotonic() + (0.0 if has_memory else _PAUSE_S)
            return None
        self._faults += 1
        self._again_at = time.monotonic() + _PAUSE_S
        if self._faults > _FAULTS:
            raise StudyError(
                f"the process that tells speed and size of candidates {death}; nothing finished is lost: see to this machine's "
                "memory and number of processes, and give the same command again"
            )
        return None


class Foresight:
    """Asks `estimator` and `memory` while the engine `is_idle`, and `process`, where there is one, while stages run.

    What would take long raises Pending then, until it is known.
    """

    def __init__(
        self,
        estimator: Estimator,
        memory: StageMemory | None,
        process: ForesightProcess | None,
        *,
        is_idle: Callable[[], bool],
    ) -> None:
        self._estimator, self._memory, self._process, self._is_idle = estimator, memory, process, is_idle
        self._refused: dict[str, str] = {}  # candidate's key -> why

    @property
    def board(self) -> Board:
        """The simulated board."""
        return self._estimator.board

    @property
    def is_pending(self) -> bool:
        """Whether answers on candidates are still to come."""
        return self._process is not None and self._process.is_busy(CANDIDATE)

    def meanwhile(self, collect: Callable[[float], list[T]]) -> list[T]:
        """What `collect` gives in at most so many seconds, called again until it gives something, an answer has come, or some
        time has gone by.
        """
        process, deadline = self._process, time.monotonic() + _WAIT_S
        if process is None or not process.is_busy():
            return collect(_WAIT_S)
        before, step = process.answered, _SOON_S
        while not (found := collect(step)) and process.is_busy() and process.answered == before:
            if time.monotonic() > deadline:
                break
            step *= 1.5  # most answers come within milliseconds, or take seconds
        return found

    # --- candidates: as `Estimator` tells

    def estimate(self, candidate: Candidate) -> dict[str, float]:
        """The metrics that are known before training. Raises EdgesearchError as `Estimator.estimate`, and Pending."""
        self._find_out(candidate)
        return self._estimator.estimate(candidate)

    def network_key(self, candidate: Candidate) -> str:
        """The same for candidates that are one network. Raises as `estimate`."""
        self._find_out(candidate)
        return self._estimator.network_key(candidate)

    def beyond_reach(self, candidate: Candidate) -> float | None:
        """The largest share that can be pruned, where the candidate asks for more. Raises as `estimate`."""
        self._find_out(candidate)
        return self._estimator.beyond_reach(candidate)

    def _find_out(self, candidate: Candidate) -> None:
        if self._process is None or self._estimator.knows(candidate):
            return
        if (reason := self._refused.get(candidate.key)) is not None:
            raise EdgesearchError(reason)
        question = {"candidate": candidate.model_dump(mode="json")}
        answer = self._told(self._process, CANDIDATE + candidate.key, question)
        if answer is None:
            return
        if "error" in answer:
            self._refused[candidate.key] = answer["error"]
            raise EdgesearchError(answer["error"])
        self._estimator.learn(candidate, Facts(**answer["facts"]))
        if answer["bare"] is not None:
            self._estimator.learn(bare(candidate.student), Facts(**answer["bare"]))

    # --- stages

    def memory(self, stage: Stage) -> int | None:
        """Bytes of the stage's process at its peak, 0 where that is not known; None while it is being found out."""
        memory, process = self._memory, self._process
        if memory is None:
            return 0
        if process is None or memory.knows(stage):
            return memory(stage)
        try:
            answer = self._told(process, STAGE + stage.key, {"stage": stage.to_json()})
        except Pending:
            return None
        if answer is not None:
            memory.learn(stage, answer.get("memory", 0))
        return memory(stage)

    def _told(self, process: ForesightProcess, key: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; None where this process is to find out, since nobody waits for it meanwhile. Raises Pending."""
        answer = process.take(key)
        if answer is None:
            if self._is_idle() and not process.is_asked(key):
                return None
            process.ask(key, question)
            raise Pending
        if "bug" in answer:
            raise RuntimeError(f"a bug, in a process beside this one:\n{answer['bug']}")
        return answer


def bare(student: Student) -> Candidate:
    """A student by itself, of which costs are learnt."""
    return Candidate(student=student).canonical()


def answer_in(settings: ForesightSettings) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What answers questions, in a process of its own."""
    folder = Path(settings.folder)
    board = find_board(
        settings.board,
        folder=folder,
        compiler=settings.compiler,
        allow=settings.allow,
        expected_sha256=settings.source_sha256,
    )
    pipeline = Pipeline.model_validate(settings.pipeline)
    estimator = Estimator(channels=settings.channels, classes=settings.classes, board=board, folder=folder, pipeline=pipeline)
    conditions = Conditions(
        {}, images=settings.images, size=settings.size, channels=settings.channels, classes=settings.classes
    )
    memory = StageMemory(conditions, folder)

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        if "stage" in question:
            return {"memory": memory(Stage.from_json(question["stage"]))}
        candidate = Candidate.model_validate(question["candidate"])
        facts = estimator.facts(candidate).to_json()
        try:
            alone: dict[str, Any] | None = estimator.facts(bare(candidate.student)).to_json()
        except EdgesearchError:
            alone = None
        return {"facts": facts, "bare": alone}

    return answer
