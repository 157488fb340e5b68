"""What a job on a board gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.remote._report import RunReport

__all__ = ["BoardRun", "Released"]


@dataclass(frozen=True)
class BoardRun:
    """What a board gave for one network and its images."""

    report: RunReport
    #: What it was given, int8 (N, H, W, C), and what it gave, int8 (N, values).
    images: npt.NDArray[np.int8]
    logits: npt.NDArray[np.int8]
    #: Images whose largest logit, the first of equal ones, is that of their label; None: there were no labels.
    correct: int | None
    #: By this machine's clock, ISO 8601 with its zone.
    measured_at: str
    #: Seconds that the board's clock is ahead of this machine's; None: the board did not tell its time.
    clock_skew_s: float | None
    #: Bytes that were pushed; what the board had from earlier jobs is not counted.
    pushed: int
    #: Why the runner was not the C++ one; "": it was, or the board's settings ask for the Python one.
    note: str = ""


@dataclass(frozen=True)
class Released:
    """What `release_board` did, as names of folders on the board."""

    removed: tuple[str, ...]
    #: Of jobs whose drivers live.
    kept: tuple[str, ...]
    #: Whether a program still holds the board's lock; None: the board cannot tell.
    is_locked: bool | None
