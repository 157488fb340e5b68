"""Room in the feature-map banks: which words of each group are taken."""

from __future__ import annotations

__all__ = ["Group"]


class Group:
    """One group of banks: all its banks are used alike, so one map of words stands for them."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.next = 0
        self._all = (1 << depth) - 1
        self._free = self._all  # bit by bit, the first word the lowest: whole numbers of so many bits are fast

    def copy(self) -> Group:
        """An equal one that can be tried out."""
        other = Group(self.depth)
        other.next, other._free = self.next, self._free
        return other

    @property
    def taken(self) -> list[bool]:
        """Of each word, whether it is taken."""
        return [not self._free >> word & 1 for word in range(self.depth)]

    @property
    def free(self) -> int:
        """Words that are free, in one piece or several."""
        return self._free.bit_count()

    def take(self, words: int) -> int | None:
        """The address of `words` free words in one piece, which may run past the end to the beginning; None: there is none.

        The search begins where the last one ended: what was just given back is used again as late as possible, so that new
        rows need not wait for the reader of old ones.
        """
        if words > self.depth:
            return None
        found = self._run(words)
        if found is not None:
            self._free &= ~self._words(found, words)
            self.next = (found + words) % self.depth
        return found

    def give(self, address: int, words: int) -> None:
        """Free what `take` gave."""
        self._free |= self._words(address, words)

    def _run(self, words: int) -> int | None:
        """The first word of the first run, going round from `next`."""
        turned = (self._free >> self.next | self._free << (self.depth - self.next)) & self._all
        starts, length = turned | turned << self.depth, 1  # of runs of this length
        while length < words:
            step = min(length, words - length)
            starts &= starts >> step
            length += step
        starts &= self._all
        return ((starts & -starts).bit_length() - 1 + self.next) % self.depth if starts else None

    def _words(self, address: int, words: int) -> int:
        run = ((1 << words) - 1) << address
        return (run | run >> self.depth) & self._all
