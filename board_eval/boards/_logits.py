"""A board's integers beside ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesearch.errors import BoardError

__all__ = ["LogitsComparison"]


@dataclass(frozen=True)
class LogitsComparison:
    """How many of a network's images a board tells otherwise than our execution of its integers, and by how much."""

    images: int
    #: Images of which any integer differs, and of which the class does.
    differing: int = 0
    other_class: int = 0
    #: The largest difference, in steps of the fix position of the file's output.
    largest: int = 0

    @classmethod
    def of(cls, board: npt.NDArray[np.int8], logits: npt.NDArray[np.floating], fix: int) -> LogitsComparison:
        """`board` is (N, values) at position `fix`, the file's own; `logits` is what our execution gives, (N, ...).

        Raises BoardError for logits of another shape.
        """
        ours = np.ldexp(logits.reshape(len(logits), -1).astype(np.float64), fix)
        theirs = board.reshape(len(board), -1)
        if theirs.shape != ours.shape:
            raise BoardError(
                f"the board gave logits of shape {board.shape}, expected {ours.shape}; the file is of another network"
            )
        distance = np.abs(theirs - ours)
        return cls(
            images=len(ours),
            differing=int(distance.any(axis=1).sum()),
            other_class=int((theirs.argmax(axis=1) != ours.argmax(axis=1)).sum()),
            largest=int(distance.max(initial=0)),
        )

    @property
    def equal(self) -> bool:
        """Whether every integer of every image is ours."""
        return self.differing == 0

    @property
    def verdict(self) -> str:
        """The comparison in words, and what it means for the accuracy."""
        return str(self) if self.equal else f"{self}: the simulated accuracy does not hold"

    def __str__(self) -> str:
        if self.equal:
            return f"equal to this program's integers on all {self.images:,} images"
        return (
            f"differ from this program's integers on {self.differing:,} of {self.images:,} images, by at most "
            f"{self.largest:,}, and tell {self.other_class:,} another class"
        )
