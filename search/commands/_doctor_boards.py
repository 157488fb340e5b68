"""What `edgesearch doctor` says of the boards file: each board, and each pool."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial

from edgesearch.board_eval.remote import Boards, check_boards, load_boards
from edgesearch.board_eval.remote import Check as BoardCheck
from edgesearch.errors import BoardError
from edgesearch.search.commands._checks import Broken, Check

__all__ = ["board_checks", "profile_of"]

#: Most seconds of a step of the look at a board.
_LOOK_S = 20.0


def board_checks(asked: str | None) -> list[Check]:
    """A line for each board and pool of the boards file; only the one that was asked for is needed."""
    try:
        boards = load_boards()
    except BoardError as error:
        return [Check("boards file", partial(_refuse, str(error)), needed=False)]
    if not boards.boards:
        said = f"{boards.path} names no board" if boards.path.exists() else f"there is no boards file {boards.path}"
        advice = "`edgesearch board add` adds one (not needed to search)"
        return [Check("boards", partial(_leave_out, f"{said}; {advice}"), needed=False)]
    looks = _Looks(boards)
    return [
        *(Check(f"board {name}", partial(looks.board, name), needed=name == asked) for name in boards.boards),
        *(Check(f"pool {name}", partial(looks.pool, name), needed=name == asked) for name in boards.pools),
    ]


def profile_of(name: str) -> str:
    """The profile of the board that is called `name`: that of a board or pool of the boards file, else `name` itself."""
    try:
        boards = load_boards()
    except BoardError:  # it has a line of its own
        return name
    members = boards.pools.get(name, (name,))
    return boards.boards[members[0]].target if members[0] in boards.boards else name


def _refuse(sentence: str) -> str:
    raise Broken(sentence)


def _leave_out(sentence: str) -> str:
    raise BoardError(sentence)


class _Looks:
    """What all boards say; they are entered side by side when the first line is asked for."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards

    @cached_property
    def _found(self) -> Mapping[str, tuple[BoardCheck, ...]]:
        return dict(check_boards(self._boards, tuple(self._boards.boards), limit_s=_LOOK_S))

    def board(self, name: str) -> str:
        """What is good; raises what is not, a board that cannot be entered as one that is not there."""
        checks = self._found[name]
        faults = [check for check in checks if check.is_good is False]
        if not faults:
            return "; ".join(f"{check.name} {check.text}" for check in checks)
        if faults[0].name == "reachable":
            raise BoardError(faults[0].text)
        raise Broken("; ".join(f"{fault.name}: {fault.text}" for fault in faults))

    def pool(self, name: str) -> str:
        """Which of its boards serve; raises BoardError when none does."""
        members = self._boards.pools[name]
        serving = [member for member in members if all(check.is_good is not False for check in self._found[member])]
        if not serving:
            raise BoardError(f"none of its boards ({', '.join(members)}) serves; see their lines")
        out = [member for member in members if member not in serving]
        left = f"; not {', '.join(out)}, see above" if out else ""
        return f"{len(serving)} of {len(members)} boards serve: {', '.join(serving)}{left}"
