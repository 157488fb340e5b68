"""Which board serves the next measurement, and which boards are out: decisions alone, by a clock that is given.

A board is ready, suspect (a job was lost on it; it is checked before it gets another), or in quarantine with a reason. A
suspect that fails its check has its power cut and given back once, where it has a hook for that, and is checked again; one that
fails then is in quarantine, and looked at now and then. Its power may be cut again once a job succeeded on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

#: What a board needs next: a look at it, or its power cut and a look after.
Remedy: TypeAlias = Literal["check", "power cycle"]


@dataclass(frozen=True)
class BoardRules:
    """How boards are shared and judged; times in seconds.

    jobs_per_board: given to one board at a time: one measures while the next pushes its files.
    check_s, longest_check_s: from a quarantine to the first look at the board, doubled for each further look up to the longest.
    boot_s: how long after its power came back a board may take to answer.
    hook_s: for the power-cycle command.
    wait_s: for a board to come back when all are out; then the study stops.
    """

    jobs_per_board: int = 2
    check_s: float = 5.0
    longest_check_s: float = 600.0
    boot_s: float = 180.0
    hook_s: float = 120.0
    wait_s: float = 1800.0


class State(Enum):
    """Of one board."""

    READY = "ready"
    SUSPECT = "suspect"
    QUARANTINE = "in quarantine"


@dataclass
class _Board:
    name: str
    has_hook: bool
    state: State = State.READY
    jobs: set[str] = field(default_factory=set)  # stage keys
    reason: str = ""
    remedy: Remedy = "check"  # the next
    was_cycled: bool = False  # in this episode
    under_check: bool = False
    next_check: float = 0.0
    delay: float = 0.0
    served: int = 0
    faults: int = 0


class Allocation:
    """The boards of one run. `hooks`: those that have a power-cycle command. `clock` gives seconds that only grow."""

    def __init__(
        self, names: Sequence[str], *, hooks: Collection[str] = (), rules: BoardRules, clock: Callable[[], float]
    ) -> None:
        self._boards = {name: _Board(name, name in hooks) for name in names}
        self._rules, self._clock = rules, clock
        self._out_since: float | None = None

    # --- jobs

    def choose(self, avoid: Collection[str] = ()) -> str | None:
        """The ready board with the fewest jobs that takes another; one of `avoid` only where there is no other ready one."""
        ready = [board for board in self._boards.values() if board.state is State.READY]
        better = [board for board in ready if board.name not in avoid] or ready
        free = [board for board in better if len(board.jobs) < self._rules.jobs_per_board]
        return min(free, key=lambda board: (len(board.jobs), board.served)).name if free else None

    def begin(self, name: str, key: str) -> None:
        """The board was given the job of a stage."""
        self._boards[name].jobs.add(key)

    def succeeded(self, name: str, key: str) -> None:
        """The job is done, or the network was refused: the board works."""
        board = self._boards[name]
        board.jobs.discard(key)
        board.served += 1
        board.was_cycled = False

    def dropped(self, name: str, key: str) -> None:
        """The job ended and says nothing of the board."""
        self._boards[name].jobs.discard(key)

    def lost(self, name: str, key: str, reason: str) -> None:
        """The board was at fault: it is looked at before it gets another job."""
        self._boards[name].faults += 1
        self.suspected(name, key, reason)

    def suspected(self, name: str, key: str, reason: str) -> None:
        """The job ended, and the board may be at fault: it is looked at before it gets another."""
        board = self._boards[name]
        board.jobs.discard(key)
        if board.state is State.READY:
            board.state, board.reason = State.SUSPECT, reason
            board.remedy, board.next_check = "check", self._clock()

    # --- remedies

    def due(self) -> list[tuple[str, Remedy]]:
        """Boards to be looked at now, and how; each is under check until `checked` is told how it ended."""
        now = self._clock()
        found: list[tuple[str, Remedy]] = []
        for board in self._boards.values():
            if board.state is State.READY or board.under_check or now < board.next_check:
                continue
            board.under_check = True
            board.was_cycled |= board.remedy == "power cycle"
            found.append((board.name, board.remedy))
        return found

    def checked(self, name: str, problem: str | None, *, keeps_power: bool = False) -> State:
        """How a look at a board ended: None when it is well, else what is wrong; the state that it is in now.

        `keeps_power`: cutting its power would not help, or would end what somebody else measures.
        """
        board, now = self._boards[name], self._clock()
        board.under_check = False
        if problem is None:
            self._is_ready(board)
            return board.state
        board.reason = problem
        if board.state is State.SUSPECT and board.has_hook and not board.was_cycled and not keeps_power:
            board.remedy, board.next_check = "power cycle", now
            return board.state
        board.remedy = "check"
        if board.state is not State.QUARANTINE:
            board.state, board.delay = State.QUARANTINE, self._rules.check_s
        else:
            board.delay = min(2 * board.delay, self._rules.longest_check_s)
        board.next_check = now + board.delay
        if self.all_out and self._out_since is None:
            self._out_since = now
        return board.state

    def _is_ready(self, board: _Board) -> None:
        board.state, board.reason = State.READY, ""
        self._out_since = None

    # --- what is known

    @property
    def all_out(self) -> bool:
        """Whether every board is in quarantine."""
        return all(board.state is State.QUARANTINE for board in self._boards.values())

    @property
    def out_for(self) -> float:
        """Seconds for which every board has been in quarantine."""
        return 0.0 if self._out_since is None else self._clock() - self._out_since

    def quarantined(self) -> dict[str, str]:
        """Board -> why it is in quarantine."""
        return {board.name: board.reason for board in self._boards.values() if board.state is State.QUARANTINE}

    def summary(self) -> dict[str, dict[str, str | int]]:
        """Every board's state, its reason where it is not ready, and how many jobs it served and lost in this run."""
        return {
            board.name: {"state": board.state.value, "served": board.served, "lost": board.faults}
            | ({"reason": board.reason} if board.reason else {})
            for board in self._boards.values()
        }
