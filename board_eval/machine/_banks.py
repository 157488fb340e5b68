"""The memories inside one DPU core, and which words of them a row, a window or a piece takes.

A word holds `lanes` int8 values. Words have one number over all banks: `bank * depth + word`. Every bank is a ring: what runs
past its last word goes on at its word 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.targets import Target

__all__ = ["Banks", "Words", "row_places", "spread"]

Words = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Banks:
    """Which bank is for what: `groups` times `rows` feature-map banks, then weights, depthwise weights and biases."""

    rows: int
    lanes: int
    depth: int
    groups: int

    @classmethod
    def of(cls, target: Target) -> Banks:
        """Those of a DPU."""
        return cls(target.pixel_parallel, target.input_parallel, target.bank_words, target.feature_groups)

    @property
    def weights(self) -> int:
        """The first bank of convolution weights, and how many feature-map banks there are; one bank per output lane."""
        return self.groups * self.rows

    @property
    def depthwise(self) -> int:
        """The bank of depthwise weights."""
        return self.weights + self.lanes

    @property
    def biases(self) -> int:
        """The bank of biases."""
        return self.depthwise + 1

    @property
    def count(self) -> int:
        """All banks."""
        return self.biases + 1

    def words(self, channels: int) -> int:
        """Words that hold so many channels of one pixel."""
        return -(-channels // self.lanes)

    def piece(self, bank: int, start: int, length: int, jump: int, words: int) -> Words:
        """Words of `length` pieces of `words` words, `jump` words from piece to piece: (length * words,)."""
        return self.wrapped(start + spread(length, jump, words)) + bank * self.depth

    def wrapped(self, words: Words) -> Words:
        """Words of one bank, taken round the ring; changes `words`."""
        if words.size and words.max() >= self.depth:
            words %= self.depth
        return words


@lru_cache(maxsize=1024)
def spread(length: int, jump: int, words: int) -> Words:
    """Words of `length` pieces of `words` words behind the first one's start: (length * words,). Not to be changed."""
    out = (np.arange(length, dtype=np.intp)[:, None] * jump + np.arange(words, dtype=np.intp)).reshape(-1)
    out.flags.writeable = False
    return out


@lru_cache(maxsize=1024)
def row_places(banks: Banks, bank: int, rows: int, stride: int, offset: int) -> tuple[Words, Words, Words]:
    """Bank, rounds through the group's banks, and line in the bank of every row: three arrays (rows,). Not to be changed.

    `stride` rows share a bank; the first row is number `offset` of those that begin in `bank`.
    """
    number = np.arange(offset, offset + rows, dtype=np.intp)
    place = bank % banks.rows + number // stride
    found = (bank // banks.rows * banks.rows + place % banks.rows, place // banks.rows, number % stride)
    for array in found:
        array.flags.writeable = False
    return found
