"""A board's integers are compared with ours, at the position of the file that ran."""

from __future__ import annotations

import numpy as np
import pytest

from edgesearch.board_eval.boards import LogitsComparison
from edgesearch.errors import BoardError

LOGITS = np.array([[0.5, -1.0, 0.25], [1.0, 0.75, 0.0]], np.float32)


@pytest.mark.parametrize("fix", [2, 3])
def test_logits_are_compared_at_the_files_own_position(fix: int) -> None:
    compared = LogitsComparison.of((LOGITS * 2**fix).astype(np.int8), LOGITS, fix)
    assert compared == LogitsComparison(images=2)
    assert compared.equal
    assert str(compared) == "equal to this program's integers on all 2 images"


def test_what_differs_is_counted() -> None:
    board = (LOGITS * 4).astype(np.int8)
    board[1] = [1, 3, 0]
    compared = LogitsComparison.of(board, LOGITS, 2)
    assert compared == LogitsComparison(images=2, differing=1, other_class=1, largest=3)
    assert "differ from this program's integers on 1 of 2 images, by at most 3, and tell 1 another class" in str(compared)


def test_logits_of_another_network_are_refused() -> None:
    with pytest.raises(BoardError, match=r"\(2, 5\), expected \(2, 3\)"):
        LogitsComparison.of(np.zeros((2, 5), np.int8), LOGITS, 2)
