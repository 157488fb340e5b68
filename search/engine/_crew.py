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

from edgesearch.board_eval import BoardReference
from edgesearch.errors import StudyError
from edgesearch.search.engine._allocation import Allocation, BoardRules, Remedy, State
from edgesearch.search.study import duration

#: Looks at a board: None when it is well, else what is wrong, in one sentence.
Look: TypeAlias = Callable[[BoardReference, Remedy], str | None]
#: A stage that was lost so often on boards that were well right after it has its network to blame.
_LOSSES = 4


@dataclass(frozen=True)
class BoardFault:
    """A job that a board lost: which, why, and when by this machine's clock (ISO 8601, UTC)."""

    board: str
    reason: str
    at: str


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
        self._open: dict[str, set[str]] = {name: set() for name in self._boards}  # board -> stages lost since it was well
        self._innocent: Counter[str] = Counter()  # stage key -> boards that were well after they lost it
        self._looks: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
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
        """The board did the job, or refused the network; its name."""
        name, _ = self._given.pop(key)
        self._overdue.discard(key)
        self._allocation.succeeded(name, key)
        return name

    def dropped(self, key: str) -> None:
        """The job ended and says nothing of the board."""
        name, _ = self._given.pop(key)
        self._overdue.discard(key)
        self._allocation.dropped(name, key)

    def lost(self, key: str, reason: str) -> BoardFault:
        """The board lost the job; it is looked at before it gets another."""
        name, since = self._given.pop(key)
        if key in self._overdue:
            reason = f"its job did not end in {duration(self._clock() - since)}"
            self._overdue.discard(key)
        fault = BoardFault(name, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        self._faults.setdefault(key, []).append(fault)
        self._open[name].add(key)
        self._allocation.lost(name, key, reason)
        return fault

    def has_itself_to_blame(self, key: str) -> bool:
        """Whether the stage was lost again and again on boards that were well right after it."""
        return self._innocent[key] >= _LOSSES

    def faults(self, key: str) -> list[dict[str, str]]:
        """Every loss of the stage in this run, as JSON."""
        return [asdict(fault) for fault in self._faults.get(key, ())]

    def _avoided(self, key: str) -> set[str]:
        return {fault.board for fault in self._faults.get(key, ())}

    # --- boards

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
                self._learn(self._looking.pop(number)[0], problem)
        for number, (name, since) in list(self._looking.items()):
            if self._clock() - since > self._boards[name].limit_s + self.rules.hook_s + self.rules.boot_s:
                del self._looking[number]
                self._learn(name, f"a look at it did not end in {duration(self._clock() - since)}")
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
        try:
            problem = self._look(board, remedy)
        except Exception as error:  # a thread has nobody to raise to
            problem = f"the look at it failed ({type(error).__name__}: {error})"
        self._looks.put((number, problem))

    def _next_look(self) -> tuple[int, str | None] | None:
        try:
            return self._looks.get_nowait()
        except Empty:
            return None

    def _learn(self, name: str, problem: str | None) -> None:
        was_out = name in self._allocation.quarantined()
        state = self._allocation.checked(name, problem)
        if problem is None:
            self._innocent.update(self._open[name])
            self._open[name].clear()
            self._note(f"board {name}: is well{' again, and out of quarantine' if was_out else ''}")
        elif state is State.QUARANTINE and not was_out:
            self._note(f"board {name}: is in quarantine: {problem}")

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self._allocation.quarantined().items())
