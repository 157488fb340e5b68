"""Operands of a layer while it is written: rows that are there, or are loaded when asked for; results that are saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgesearch.board_eval.compiler._code import Code
from edgesearch.board_eval.compiler._plan import External
from edgesearch.board_eval.compiler._rows import Rows, ceil_div
from edgesearch.board_eval.compiler._step import Step, Stream
from edgesearch.board_eval.compiler._transfer import Transfer, loads, saves
from edgesearch.board_eval.graph import Conv

__all__ = ["AugmentedFeed", "Feed", "Sink"]


class Feed:
    """Rows of an operand. Of a ring, each is loaded once, before the first instruction that reads it."""

    def __init__(self, code: Code, rows: Rows, external: External | None, *, first_channel: int = 0, channels: int = 0) -> None:
        self.code = code
        self.rows = rows
        self.external = external
        self.first_channel = first_channel
        self.channels = channels
        self.there: set[int] = set()

    def need(self, rows: Iterable[int]) -> None:
        """LOADs of the rows that are not there yet."""
        if self.external is None:
            return
        for row in rows:
            if row not in self.there:
                self.there.add(row)
                self.code.steps += self._load(self.external, row)

    def _load(self, external: External, row: int) -> Iterator[Step]:
        rows = self.rows
        place = rows.place(row)
        address = external.byte(row, rows.first_column, self.first_channel)
        transfer = Transfer(
            external.register, address, external.pixel_pitch, place.bank, place.word, rows.pixel, rows.columns, self.channels
        )
        yield from loads(_joined(transfer, self.code), Stream.ROWS, self.code.layer, self.code.target)


def _joined(transfer: Transfer, code: Code) -> Transfer:
    """One long pixel where pixels follow one another in memory and in the bank: a vector of many channels needs no pieces."""
    return (
        transfer
        if transfer.pieces > 1
        else Transfer(
            transfer.register,
            transfer.address,
            transfer.size,
            transfer.bank,
            transfer.word,
            ceil_div(transfer.size, code.target.input_parallel),
            1,
            transfer.size,
        )
    )


class AugmentedFeed(Feed):
    """Rows of the image with the columns of the kernel folded into the channels: one piece per output column."""

    def __init__(self, code: Code, rows: Rows, external: External, conv: Conv) -> None:
        super().__init__(code, rows, external)
        self.conv = conv

    def _load(self, external: External, row: int) -> Iterator[Step]:
        rows, code, conv = self.rows, self.code, self.conv
        place = rows.place(row)
        _, width, channels = external.shape
        kernel, stride, left = conv.kernel[1], conv.stride[1], conv.padding[0]
        size, pitch = kernel * channels, stride * channels
        first = rows.first_column
        start = external.byte(row, 0) + (first * stride - left) * channels
        before = max(0, left - first * stride) * channels
        #: Columns whose window ends in the padding: each is a LOAD of its own, the last one apart, which the rest may join.
        inside = [column for column in range(first, first + rows.columns) if column * stride - left + kernel <= width]
        outside = range(first + len(inside), first + rows.columns)
        joined = len(inside) + (1 if len(outside) else 0)
        missing = [column * stride - left + kernel - width for column in outside]
        pieces = Transfer(external.register, start, pitch, place.bank, place.word, rows.pixel, joined, size)
        yield from loads(
            pieces, Stream.ROWS, code.layer, code.target, pad_start=before, pad_end=missing[0] * channels if missing else 0
        )
        for i, column in enumerate(outside[1:], 1):
            word = (place.word + (column - first) * rows.pixel) % rows.depth
            one = Transfer(external.register, start + (column - first) * pitch, pitch, place.bank, word, rows.pixel, 1, size)
            yield from loads(one, Stream.ROWS, code.layer, code.target, pad_end=missing[i] * channels)


class Sink:
    """The result of a layer. Rows of a ring are saved as soon as they are made."""

    def __init__(self, code: Code, rows: Rows, external: External | None, *, first_channel: int = 0, channels: int = 0) -> None:
        self.code = code
        self.rows = rows
        self.external = external
        self.first_channel = first_channel
        self.channels = channels

    def put(self, rows: Iterable[int], columns: range, *, first_word: int = 0) -> None:
        """SAVEs of rows that are complete; of each pixel, words from `first_word` on."""
        external = self.external
        if external is None:
            return
        for row in rows:
            place = self.rows.place(row, columns.start)
            word = (place.word + first_word) % self.rows.depth
            address = external.byte(row, columns.start, self.first_channel)
            transfer = Transfer(
                external.register, address, external.pixel_pitch, place.bank, word, self.rows.pixel, len(columns), self.channels
            )
            self.code.steps += saves(transfer, self.code.layer, self.code.target)
