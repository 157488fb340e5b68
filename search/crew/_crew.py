"""The boards of a run at work: jobs given to them, faults remembered, and looks at boards in threads of this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from edgesearch.board_eval import BoardProblem, BoardReference
from edgesearch.errors import BoardUnfit, StudyError
from edgesearch.search.crew._allocation import Allocation, BoardRules, Remedy, State
from edgesearch.search.study import duration

#: Looks at a board: None when it is well, else what is wrong.
Look: TypeAlias = Callable[[BoardReference, Remedy], BoardProblem | None]
#: A stage that was lost so often on boards that were well right after it has its network to blame.
_LOSSES = 4
#: And one after which boards ran no other network any more so often, whatever happened to them.
_WRECKS = 8
#: Seconds that a study waits for the first look at its boards.
_FIRST_LOOK_S = 60.0


@dataclass(frozen=True)
class BoardFault:
    """A job that a board lost: which, why, and when by this machine's clock (ISO 8601, UTC)."""

    board: str
    reason: str
    at: str


@dataclass(frozen=True)
class Verdict:
    """Whose fault it was that a board refused a stage. `fault`: the board's, which merely lost the stage; None: its own."""

    key: str
    fault: BoardFault | None


@dataclass(frozen=True)
class _Refusal:
    """A stage that a board refused, and how many looks had begun by then: a later one tells whose fault it was."""

    key: str
    reason: str
    looks: int


class BoardCrew:
    """Gives stages to boards. `look` runs in threads; everything else is called by the driver's one thread."""

    def __init__(
        self,
        boards: Sequence[BoardReference],
        *,
        look: Look,
        note: Callable[[str], None],
        rules: BoardRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules or BoardRules()
        self._boards = {board.name: board for board in boards}
        hooks = [board.name for board in boards if board.power_cycle]
        self._allocation = Allocation(list(self._boards), hooks=hooks, rules=self.rules, clock=clock)
        self._look, self._note, self._clock = look, note, clock
        self._given: dict[str, tuple[str, float]] = {}  # stage key -> board, when
        self._overdue: set[str] = set()
        self._faults: dict[str, list[BoardFault]] = {}
        #: Board -> stages lost since it was looked at, and how many looks had begun by then.
        self._open: dict[str, dict[str, int]] = {name: {} for name in self._boards}
        self._innocent: Counter[str] = Counter()  # stage key -> boards that were well after they lost it
        self._wrecked: Counter[str] = Counter()  # stage key -> boards that were not well after they lost or refused it
        self._refusals: dict[str, list[_Refusal]] = {name: [] for name in self._boards}  # board -> not judged yet
        self._verdicts: list[Verdict] = []
        self._looks: SimpleQueue[tuple[int, BoardProblem | None]] = SimpleQueue()
        self._looking: dict[int, tuple[str, float]] = {}  # number of a look -> board, when it was begun
        self._looked = 0
        self._told_all_out = False

    @property
    def places(self) -> int:
        """How many jobs all boards take at a time."""
        return len(self._boards) * self.rules.jobs_per_board

    # --- jobs

    def has_room(self, key: str) -> bool:
        """Whether a board takes the stage now."""
        return self._allocation.choose(self._avoided(key)) is not None

    def give(self, key: str) -> BoardReference:
        """The board that the stage is to run on; `has_room` must hold."""
        name = self._allocation.choose(self._avoided(key))
        assert name is not None
        self._allocation.begin(name, key)
        self._given[key] = name, self._clock()
        return self._boards[name]

    def overdue(self) -> list[str]:
        """Stages whose jobs should have ended long ago, and were not stopped yet."""
        now = self._clock()
        late = [key for key, (name, since) in self._given.items() if now - since > self._boards[name].limit_s]
        return [key for key in late if key not in self._overdue]

    def stopped(self, key: str) -> None:
        """The stage's job was stopped because it was overdue."""
        self._overdue.add(key)

    def was_stopped(self, key: str) -> bool:
        """Whether the stage's job, which just ended, was stopped because it was overdue."""
        return key in self._overdue

    def succeeded(self, key: str) -> str:
        """The board did the job; its name."""
        name, _ = self._given.pop(key)
        self._overdue.discard(key)
        self._allocation.succeeded(name, key)
        return name

    def dropped(self, key: str) -> None:
        """The job ended and says nothing of the board."""
        name, _ = self._given.pop(key)
        self._overdue.discard(key)
        self._allocation.dropped(name, key)

    def lost(self, key: str, reason: str, *, is_busy: bool = False) -> BoardFault:
        """The board lost the job; it is looked at before it gets another.

        `is_busy`: another program had the board, which says nothing of the stage either.
        """
        name, since = self._given.pop(key)
        if key in self._overdue:
            reason = f"its job did not end in {duration(self._clock() - since)}"
            self._overdue.discard(key)
        if not is_busy:
            self._open[name][key] = self._looked
        return self._blame(name, key, reason)

    def refused(self, key: str, reason: str) -> None:
        """The board refused the job, whose fault that is a look at the board tells: see `verdicts`."""
        name, _ = self._given.pop(key)
        self._overdue.discard(key)
        if name in self._allocation.quarantined():
            self._verdicts.append(Verdict(key, self._blame(name, key, reason)))
            return
        self._refusals[name].append(_Refusal(key, reason, self._looked))
        self._allocation.suspected(name, key, reason)

    def verdicts(self) -> list[Verdict]:
        """Of refused stages, whose fault is known by now, each once."""
        known, self._verdicts = self._verdicts, []
        return known

    def _blame(self, name: str, key: str, reason: str) -> BoardFault:
        fault = BoardFault(name, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        self._faults.setdefault(key, []).append(fault)
        self._allocation.lost(name, key, reason)
        return fault

    def blame(self, key: str) -> str:
        """By which boards the stage was lost again and again, so that it has itself to blame, in words; "" where it has not."""
        if self._innocent[key] >= _LOSSES:
            return "by boards that ran a small network right after"
        return "by boards that ran no small network any more" if self._wrecked[key] >= _WRECKS else ""

    def faults(self, key: str) -> list[dict[str, str]]:
        """Every loss of the stage in this run, as JSON."""
        return [asdict(fault) for fault in self._faults.get(key, ())]

    def _avoided(self, key: str) -> set[str]:
        return {fault.board for fault in self._faults.get(key, ())}

    # --- boards

    def look_first(self, seconds: float = _FIRST_LOOK_S) -> None:
        """Look at every board, side by side, and tell what is wrong, before anything is made that they are to measure.

        One that does not answer is left to the first job: it may come back in time. One that a person must mend begins in
        quarantine. Raises BoardUnfit when that is all of them.
        """
        for board in self._boards.values():
            self._begin_look(board, "check")
        unfit: dict[str, str] = {}
        end = time.monotonic() + seconds
        while self._looking and (ended := self._next_look(max(end - time.monotonic(), 0.0))) is not None:
            name, _ = self._looking.pop(ended[0])
            if (problem := ended[1]) is not None and problem.needs_hands:
                unfit[name] = problem.reason
                self._allocation.checked(name, problem.reason, keeps_power=True)
                self._note(f"board {name}: is in quarantine: {problem}")
            elif problem is not None:
                self._note(f"board {name}: does not serve now: {problem}; what it is to measure waits for it")
        for name, _ in self._looking.values():
            self._note(f"board {name}: gave no answer in {duration(seconds)}; what it is to measure waits for it")
        self._looking.clear()
        if len(unfit) == len(self._boards):
            raise BoardUnfit(
                f"no board can measure, and nothing was trained: {'; '.join(unfit[name] for name in self._boards)}; mend it "
                "and give the same command again (`edgesearch board test` says whether a board serves)"
            )

    def step(self, *, idle: bool) -> None:
        """Start the looks that are due, and learn from those that ended. `idle`: nothing but boards is waited for.

        Raises StudyError when every board has been in quarantine for longer than the study waits.
        """
        for name, remedy in self._allocation.due():
            self._note(f"board {name}: {'its power is cut and given back' if remedy == 'power cycle' else 'is checked'}")
            self._begin_look(self._boards[name], remedy)
        while (ended := self._next_look()) is not None:
            number, problem = ended
            if number in self._looking:  # else it was given up
                self._learn(number, self._looking.pop(number)[0], problem)
        for number, (name, since) in list(self._looking.items()):
            if self._clock() - since > self._boards[name].limit_s + self.rules.hook_s + self.rules.boot_s:
                del self._looking[number]
                said = f"a look at it did not end in {duration(self._clock() - since)}"
                self._learn(number, name, BoardProblem(said))
        if self._allocation.all_out and not self._told_all_out:
            self._told_all_out = True
            self._note(
                f"every board is in quarantine ({self._reasons()}); waiting for one, {duration(self.rules.wait_s)} at most"
            )
        self._told_all_out &= self._allocation.all_out
        if idle and self._allocation.out_for > self.rules.wait_s:
            raise StudyError(
                f"no board came back within {duration(self.rules.wait_s)} ({self._reasons()}); nothing finished is lost: "
                "mend one and give the same command again"
            )

    def summary(self) -> Mapping[str, Any]:
        """Every board's state, reason, and jobs served and lost in this run, as JSON."""
        return self._allocation.summary()

    def _begin_look(self, board: BoardReference, remedy: Remedy) -> None:
        self._looked += 1
        self._looking[self._looked] = board.name, self._clock()
        arguments = (self._looked, board, remedy)
        threading.Thread(target=self._run, args=arguments, name=f"look at {board.name}", daemon=True).start()

    def _run(self, number: int, board: BoardReference, remedy: Remedy) -> None:
        problem: BoardProblem | None
        try:
            problem = self._look(board, remedy)
        except (Exception, SystemExit) as error:  # a thread has nobody to raise to
            problem = BoardProblem(f"the look at it failed ({type(error).__name__}: {error})")
        self._looks.put((number, problem))

    def _next_look(self, seconds: float = 0.0) -> tuple[int, BoardProblem | None] | None:
        try:
            return self._looks.get(timeout=seconds) if seconds else self._looks.get_nowait()
        except Empty:
            return None

    def _learn(self, number: int, name: str, problem: BoardProblem | None) -> None:
        was_out = name in self._allocation.quarantined()
        if problem is None:
            self._allocation.checked(name, None)
            acquitted_of = [key for key, looks in self._open[name].items() if looks < number]
            self._innocent.update(acquitted_of)
            for key in acquitted_of:
                del self._open[name][key]
            self._note(f"board {name}: is well{' again, and out of quarantine' if was_out else ''}")
        else:
            self._wrecked.update(list(self._open[name]))
            self._open[name].clear()
            keeps_power = problem.needs_hands or problem.is_busy
            state = self._allocation.checked(name, problem.reason, keeps_power=keeps_power)
            if state is State.QUARANTINE and not was_out:
                self._note(f"board {name}: is in quarantine: {problem}")
        self._judge(number, name, problem)

    def _judge(self, number: int, name: str, problem: BoardProblem | None) -> None:
        """Whose fault the board's refusals were, by the look of this number. One that began before a refusal acquits nobody."""
        refusals, self._refusals[name] = self._refusals[name], []
        for refusal in refusals:
            if problem is not None:
                self._wrecked[refusal.key] += 1
                self._verdicts.append(Verdict(refusal.key, self._blame(name, refusal.key, refusal.reason)))
            elif refusal.looks < number:
                self._allocation.succeeded(name, refusal.key)
                self._verdicts.append(Verdict(refusal.key, None))
            else:
                self._refusals[name].append(refusal)
                self._allocation.suspected(name, refusal.key, refusal.reason)

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self._allocation.quarantined().items())
