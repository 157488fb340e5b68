"""Room in the feature-map banks: which words of each group are taken."""

from __future__ import annotations

import numpy as np

__all__ = ["Group"]


class Group:
    """One group of banks: all its banks are used alike, so one map of words stands for them."""

    def __init__(self, depth: int) -> None:
        self.taken = np.zeros(depth, bool)
        self.depth = depth
        self.next = 0

    def copy(self) -> Group:
        """An equal one that can be tried out."""
        other = Group(self.depth)
        other.taken = self.taken.copy()
        other.next = self.next
        return other

    @property
    def free(self) -> int:
        """Words that are free, in one piece or several."""
        return int(self.depth - self.taken.sum())

    def take(self, words: int) -> int | None:
        """The address of `words` free words in one piece, which may run past the end to the beginning; None: there is none.

        The search begins where the last one ended: what was just given back is used again as late as possible, so that new
        rows need not wait for the reader of old ones.
        """
        if words > self.depth:
            return None
        found = self._run(words)
        if found is not None:
            self._mark(found, words, True)
            self.next = (found + words) % self.depth
        return found

    def give(self, address: int, words: int) -> None:
        """Free what `take` gave."""
        self._mark(address, words, False)

    def _run(self, words: int) -> int | None:
        around = np.concatenate([np.roll(self.taken, -self.next), np.roll(self.taken, -self.next)[: words - 1]])
        ends = np.flatnonzero(around)
        starts = np.concatenate([[0], ends + 1])
        lengths = np.append(ends, len(around)) - starts
        fitting = np.flatnonzero((lengths >= words) & (starts < self.depth))
        return int(starts[fitting[0]] + self.next) % self.depth if len(fitting) else None

    def _mark(self, address: int, words: int, value: bool) -> None:
        stop = address + words
        self.taken[address : min(stop, self.depth)] = value
        if stop > self.depth:
            self.taken[: stop - self.depth] = value
