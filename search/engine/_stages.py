"""Stages under way: given to the pool once each, whichever trials want them, and again when a worker or the pool dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgesearch.board_eval import VitisSettings
from edgesearch.errors import StudyError
from edgesearch.objectives import (
    Artifact,
    ArtifactStore,
    DataSettings,
    NetworkLimits,
    Stage,
    needs_board,
    resources_of,
    trained_student,
)
from edgesearch.search.crew import BoardCrew
from edgesearch.search.engine._workers import Pool
from edgesearch.search.processes import Job, JobResult
from edgesearch.search.study import raise_if_interrupted

#: A stage that so many workers died of, while others lived, has itself to blame: its memory, most often.
_DEATHS = 3
#: Artifacts kept in memory; a store finds the others again.
_KNOWN = 1024
#: Seconds for which a stage that was not in the store is not looked for again, unless its worker says that it is done.
_MISSED_S = 1.0


@dataclass(frozen=True)
class StageEnd:
    """A stage that ended: its artifact is there, or `failure` says in one sentence why it never will be.

    `seconds`: of all processes that made the artifact; of a failure those of the last alone.
    `faults`: of boards that lost it before, as `BoardFault`. `infeasible`: metrics of its network, where that breaks a limit.
    """

    stage: Stage
    seconds: float
    failure: str | None = None
    faults: tuple[dict[str, str], ...] = ()
    infeasible: Mapping[str, float] | None = None


class StageRunner:
    """Runs stages in a pool and finds their artifacts in the store.

    `folder` is where the user's own code is looked for first, `vitis` where Vitis AI's tools are; `note` is told what a person
    should know. `limits`: those that networks are held to. `memory` tells how many bytes a stage's process takes; a stage
    waits while that is None, since nobody knows yet. `boards` serve the stages that need one, which wait while they run and so
    take no worker's place.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        pool: Pool,
        data: DataSettings,
        logs: Path,
        note: Callable[[str], None],
        folder: Path | None = None,
        boards: BoardCrew | None = None,
        vitis: VitisSettings | None = None,
        limits: NetworkLimits | None = None,
        memory: Callable[[Stage], int | None] | None = None,
    ) -> None:
        self._memory = memory
        self._boards = boards
        self._wait_for_board = False  # whether a stage was to start on one since results were last collected
        self._idle_since: float | None = None  # nothing runs since then, for want of a board
        self._store, self._pool, self._note = store, pool, note
        self._data = data.model_dump(mode="json")
        self._logs, self._folder = logs, folder
        self._vitis = {} if vitis is None else vitis.model_dump(mode="json")
        self._limits = None if limits is None else limits.to_json()
        self._running: dict[str, tuple[Stage, str]] = {}  # stage key -> stage, log
        self._refused: dict[str, tuple[Stage, str, JobResult]] = {}  # by a board, and nobody knows yet whose fault that is
        self._deaths: Counter[str] = Counter()
        self._pieces: dict[str, int] = {}  # stage key -> that its batches are computed in, since memory did not suffice
        self._attempts: Counter[str] = Counter()  # stage key -> logs that are given away
        self._known: dict[str, Artifact] = {}  # the last that were read
        self._missed: dict[str, float] = {}  # stage key -> when it was last looked for in vain

    @property
    def free(self) -> int:
        """How many workers are free."""
        return self._pool.slots - sum(self._pool.waits_for_boards or not needs_board(s) for s, _ in self._running.values())

    @property
    def has_room(self) -> bool:
        """Whether a worker is free."""
        return self.free > 0

    @property
    def is_idle(self) -> bool:
        """Whether no stage runs."""
        return not self._running

    def artifact(self, stage: Stage) -> Artifact | None:
        """The stage's artifact, if it is in the store."""
        if self._has(stage):
            return None
        if stage.key not in self._known:
            if time.monotonic() - self._missed.get(stage.key, -_MISSED_S) < _MISSED_S:
                return None  # trials that wait ask again and again, and a store may be far away
            artifact = self._store.get(stage.kind, stage.key)
            if artifact is None:
                self._missed[stage.key] = time.monotonic()
                return None
            self._missed.pop(stage.key, None)
            if len(self._known) >= _KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[stage.key] = artifact
        return self._known[stage.key]

    def can_start(self, stage: Stage) -> bool:
        """Whether a worker is free for the stage, which is with none yet, and so is what it needs alone: a board, say."""
        if self._has(stage):
            return False
        if needs_board(stage):
            self._wait_for_board = True
            if self._pool.waits_for_boards and not self.has_room:  # its time on the board would pass in line
                return False
            return self._boards is not None and self._boards.has_room(stage.key)
        if not self.has_room or (stage.kind == "rung" and trained_student(stage).key in self._running):
            return False
        taken = sum((Counter(resources_of(other)) for other, _ in self._running.values()), Counter[str]())
        if any(taken[name] + amount > 1 for name, amount in resources_of(stage).items()):
            return False
        return self._memory is None or self._memory(stage) is not None

    def _has(self, stage: Stage) -> bool:
        """Whether the stage has begun, and it is open how it ends."""
        return stage.key in self._running or stage.key in self._refused

    def start(self, stage: Stage) -> None:
        """Give the stage to the pool."""
        board = self._boards.give(stage.key) if self._boards is not None and needs_board(stage) else None
        log = self._new_log(stage)
        self._running[stage.key] = (stage, log)
        folder = None if self._folder is None else str(self._folder)
        self._pool.submit(
            Job(
                stage=stage.to_json(),
                data=self._data,
                store=self._store.location,
                log=log,
                folder=folder,
                board=None if board is None else asdict(board),
                vitis=self._vitis,
                limits=self._limits,
                memory=0 if self._memory is None else self._memory(stage) or 0,
                pieces=self._pieces.get(stage.key, 1),
            )
        )

    def _new_log(self, stage: Stage) -> str:
        """The log of the stage's next attempt: no other has it, in this run or before, whatever ended that one."""
        while True:
            attempt = self._attempts[stage.key]
            self._attempts[stage.key] += 1
            log = self._logs / f"{stage.kind}-{stage.key[:16]}{f'-retry{attempt}' if attempt else ''}.log"
            if not log.exists():
                return str(log)

    def collect(self, timeout: float) -> list[StageEnd]:
        """The stages that ended, waiting at most `timeout` seconds for the first.

        Stages whose worker died are merely no longer running: start them again. Raises StudyError when no stage can run, and
        KeyboardInterrupt where one got lost on its way.
        """
        raise_if_interrupted()
        if self._boards is not None:
            for key in self._boards.overdue():
                if self._pool.cancel(key):
                    self._boards.stopped(key)
            self._boards.step(idle=self._is_stuck(self._boards.rules.wait_s))
            self._wait_for_board = False
            judged = self._judged(self._boards)
            if judged:
                return judged
        ends = [self._end(result) for result in self._pool.wait(timeout)]
        return [end for end in ends if end is not None]

    def _judged(self, boards: BoardCrew) -> list[StageEnd]:
        """The ends of refused stages that have themselves to blame; the others are merely no longer running."""
        ends: list[StageEnd] = []
        for verdict in boards.verdicts():
            stage, log, result = self._refused.pop(verdict.key)
            blame = boards.blame(stage.key)
            if verdict.fault is not None and not blame:
                self._note(
                    f"stage {stage.kind} {stage.key[:12]}: refused by board {verdict.fault.board}, which does not run a small "
                    f"network either: {verdict.fault.reason}; it is queued again"
                )
                continue
            message = f"{result.message} ({f'refused {blame}' if blame else 'that board ran a small network right after'})"
            end = StageEnd(stage, result.seconds, f"stage {stage.kind}: {message} (log: {log})")
            ends.append(replace(end, faults=tuple(boards.faults(stage.key))))
        return ends

    def _is_stuck(self, seconds: float) -> bool:
        """Whether nothing ran for longer than so many seconds, for want of a board."""
        now = time.monotonic()
        is_idle = self._wait_for_board and not self._running and not self._refused
        self._idle_since = (self._idle_since or now) if is_idle else None
        return self._idle_since is not None and now - self._idle_since > seconds

    def _end(self, result: JobResult) -> StageEnd | None:
        stage, log = self._running.pop(result.key)
        self._missed.pop(stage.key, None)
        if self._boards is not None and needs_board(stage):
            return self._end_on_board(self._boards, stage, log, result)
        return self._ended(stage, log, result)

    def _end_on_board(self, boards: BoardCrew, stage: Stage, log: str, result: JobResult) -> StageEnd | None:
        """A stage that a board lost is not its own death: it is merely no longer running."""
        is_busy = result.outcome == "board_busy"
        is_lost = result.outcome == "board_lost" or (result.outcome != "done" and boards.was_stopped(stage.key))
        if is_busy or is_lost:
            fault = boards.lost(stage.key, result.message, is_busy=is_busy)
            blame = boards.blame(stage.key)
            if is_busy or not blame:
                self._note(
                    f"stage {stage.kind} {stage.key[:12]}: lost by board {fault.board}: {fault.reason}; it is queued again"
                )
                return None
            message = f"{fault.reason} (lost {len(boards.faults(stage.key))} times, {blame})"
            end: StageEnd | None = StageEnd(stage, result.seconds, f"stage {stage.kind}: {message} (log: {log})")
        elif result.outcome == "board_refused":
            boards.refused(stage.key, result.message)
            self._refused[stage.key] = stage, log, result
            return None
        else:
            (boards.succeeded if result.outcome == "done" else boards.dropped)(stage.key)
            end = self._ended(stage, log, result)
        return None if end is None else replace(end, faults=tuple(boards.faults(stage.key)))

    def _ended(self, stage: Stage, log: str, result: JobResult) -> StageEnd | None:
        name = f"stage {stage.kind} {stage.key[:12]}"
        if result.outcome == "blocked":
            raise StudyError(
                f"stage {stage.kind} cannot go on: {result.message}; nothing finished is lost: "
                "mend it and give the same command again"
            )
        if result.outcome == "interrupted":
            self._note(f"{name}: {result.message}; it goes on from its last checkpoint")
            return None
        message = result.message
        if result.outcome == "infeasible":
            return StageEnd(stage, result.seconds, f"{message}; it was not trained any further", infeasible=result.figures)
        if result.outcome == "done":
            made = self.artifact(stage)
            if made is not None or self._is_overtaken(stage):
                if message:
                    self._note(f"{name}: {message}")
                return StageEnd(stage, 0.0 if made is None else made.seconds)
            message = (
                f"its worker says that it is done, but it is not in the store at {self._store.location}: "
                "workers and driver must see the same store"
            )
        if result.outcome in ("lost", "hung", "done", "out_of_memory"):
            self._deaths[stage.key] += 1
            if self._deaths[stage.key] < _DEATHS:
                again = ""
                if result.outcome == "out_of_memory":
                    self._pieces[stage.key] = 2 * self._pieces.get(stage.key, 1)
                    again = f", with batches in {self._pieces[stage.key]} pieces if it trains"
                self._note(f"{name}: {message}; trying again{again}")
                return None
            message = f"{message} ({_DEATHS} times)"
        for upstream in stage.walk():  # an input that was damaged on the disk is read, and made, anew
            self._known.pop(upstream.key, None)
        return StageEnd(stage, result.seconds, f"stage {stage.kind}: {message} (log: {log})")

    def _is_overtaken(self, stage: Stage) -> bool:
        """Whether it is a rung of a training that another study has brought to its end meanwhile."""
        if stage.kind != "rung":
            return False
        student = trained_student(stage)
        self._missed.pop(student.key, None)
        return self.artifact(student) is not None


def run_stages(runner: StageRunner, stages: Iterable[Stage]) -> list[StageEnd]:
    """Run stages whose inputs are all in the store, as many at a time as there are workers; those in the store are left out.

    How each ended, in the order of their ends.
    """
    missing = [stage for stage in {stage.key: stage for stage in stages}.values() if runner.artifact(stage) is None]
    ends: list[StageEnd] = []
    while len(ends) < len(missing):
        ended = {end.stage.key for end in ends}
        for stage in missing:
            if stage.key not in ended and runner.can_start(stage):
                runner.start(stage)
        ends += runner.collect(timeout=0.25)
    return ends
