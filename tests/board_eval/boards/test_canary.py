"""The network that tells whether a board is well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval.boards._canary import BoardProblem, Canary, examine
from edgesearch.board_eval.remote import BoardProbe, BoardRun
from edgesearch.board_eval.targets import DEFAULT_TARGET, Dpu
from edgesearch.board_eval.xmodel import is_compiled
from edgesearch.errors import BoardBusy, BoardError, BoardLost, BoardUnfit


class _Board:
    """Gives the canary's logits, with `error` added to one of them."""

    def __init__(self, target: Dpu, *, error: int = 0, raises: BoardError | None = None) -> None:
        self.target, self.error, self.raises = target, error, raises
        self.files: list[bool] = []

    def run(self, xmodel: Any, images: Any, labels: Any = None) -> BoardRun:
        if self.raises is not None:
            raise self.raises
        self.files.append(is_compiled(xmodel))
        logits = Canary.of(DEFAULT_TARGET).logits.copy()
        logits[2, 3] += self.error
        report: Any = None
        return BoardRun(report, images, logits, correct=None, measured_at="", clock_skew_s=None, pushed=0)

    def probe(self) -> BoardProbe:
        return BoardProbe.model_construct(problem="no VART")


def look(board: _Board) -> BoardProblem | None:
    return examine(board)  # type: ignore[arg-type]


def test_the_canary_is_the_same_for_every_look_and_its_answers_differ() -> None:
    first, second = Canary.of(DEFAULT_TARGET), Canary.of(DEFAULT_TARGET)
    assert first.xmodel == second.xmodel
    assert np.array_equal(first.logits, second.logits)
    assert len(np.unique(first.logits)) > 10  # a board that gives zeros is found
    assert np.abs(first.logits.astype(int)).max() <= 127


def test_a_board_that_gives_the_logits_is_well() -> None:
    board = _Board(DEFAULT_TARGET)
    assert look(board) is None
    assert board.files == [True]


def test_one_wrong_integer_is_found() -> None:
    problem = look(_Board(DEFAULT_TARGET, error=1))
    assert problem is not None
    assert "wrong logits for 1 of 4 images" in problem.reason
    assert not problem.needs_hands


@pytest.mark.parametrize(
    ("error", "needs_hands"), [(BoardLost("it is off"), False), (BoardUnfit("no key"), True), (BoardError("refused"), True)]
)
def test_a_board_that_fails_says_why_and_whether_a_person_must_mend_it(error: BoardError, needs_hands: bool) -> None:
    """A board that refuses a network that every one runs is not what the boards file says."""
    assert look(_Board(DEFAULT_TARGET, raises=error)) == BoardProblem(str(error), needs_hands)


def test_a_board_that_another_program_has_is_busy_and_needs_nobody() -> None:
    busy = BoardBusy("another program held the lock")
    assert look(_Board(DEFAULT_TARGET, raises=busy)) == BoardProblem(str(busy), is_busy=True)


def test_a_board_that_nothing_can_be_compiled_for_is_asked() -> None:
    unknown = DEFAULT_TARGET.model_copy(update={"fingerprint": 0})
    assert look(_Board(unknown)) == BoardProblem("no VART", needs_hands=True)


@pytest.mark.parametrize("size", ["B512", "B4096"])
def test_it_is_compiled_for_every_size(size: str) -> None:
    from edgesearch.board_eval.targets import DPUS

    assert Canary.of(DPUS[size]).xmodel
