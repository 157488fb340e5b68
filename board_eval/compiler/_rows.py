"""Feature maps in the banks: which bank and which word a row begins at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgesearch.board_eval.isa import WINDOW_ROUNDS

__all__ = ["Bank", "Rows", "Span", "ceil_div"]


def ceil_div(a: int, b: int) -> int:
    """The quotient of a and b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class Span:
    """`words` consecutive words from `start` on in each of `banks` banks from `bank` on; behind the last word comes word 0."""

    bank: int
    start: int
    words: int
    banks: int = 1


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank and a word in it."""

    bank: int
    word: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a feature map in one group of banks.

    `stride` neighbouring rows share a bank; the next ones go to the next bank, round by round. After `rounds` rounds the first
    place is used again: a ring of rows for what streams through, and all rows for what stays. Columns from `first_column` on
    are stored, `columns` of them, each in `pixel` words.
    """

    first_bank: int
    banks: int
    depth: int
    address: int
    pixel: int
    columns: int
    stride: int
    rounds: int
    first_column: int = 0

    @property
    def line(self) -> int:
        """Words of one row."""
        return self.columns * self.pixel

    @property
    def words(self) -> int:
        """Words of every bank that it takes."""
        return self.rounds * self.stride * self.line

    @property
    def capacity(self) -> int:
        """Rows that it holds at a time."""
        return self.rounds * self.stride * self.banks

    def at(self, address: int, first_bank: int) -> Rows:
        """The same, elsewhere."""
        return dataclasses.replace(self, address=address, first_bank=first_bank)

    def place(self, row: int, column: int | None = None) -> Bank:
        """Where a pixel begins; rows and columns outside the map, which are masked, have a place like all others."""
        step, line = divmod(row, self.stride)
        across = 0 if column is None else (column - self.first_column) * self.pixel
        word = self.address + self.round_offset(step // self.banks) + line * self.line + across
        return Bank(self.first_bank + step % self.banks, word % self.depth)

    def round_offset(self, number: int) -> int:
        """Words from the address to round `number`."""
        return number % self.rounds * self.stride * self.line

    def window(self, row: int, column: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """How a window that begins at `row` is read: bank, rows of the bank before it, and the address in each round."""
        step, offset = divmod(row, self.stride)
        across = (column - self.first_column) * self.pixel
        first = step // self.banks
        a, b, c, d = ((self.address + self.round_offset(first + i) + across) % self.depth for i in range(WINDOW_ROUNDS))
        return self.first_bank + step % self.banks, offset, (a, b, c, d)

    def span(self, row: int, column: int, columns: int, *, first_word: int = 0, words: int | None = None) -> Span:
        """The words of `columns` pixels of a row; of each, `words` from `first_word` on (None: all).

        What lies between them counts too: a span is what is guarded, and may be larger than what is touched.
        """
        place = self.place(row, column)
        used = self.pixel - first_word if words is None else words
        return Span(place.bank, (place.word + first_word) % self.depth, (columns - 1) * self.pixel + used)
