"""LOADs and SAVEs: pieces of bytes between external memory and one bank, cut to what one instruction moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from edgesearch.board_eval.compiler._rows import Span, ceil_div
from edgesearch.board_eval.compiler._step import Memory, Step, Stream
from edgesearch.board_eval.isa import Engine, Load, Save
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.xmodel import WORKSPACE

__all__ = ["Transfer", "loads", "saves"]

#: Bytes of a piece and pieces, at most. Fields hold more; compiled files have no more.
_CHANNELS, _PIECES = 1280, 1024
#: Words and bytes between pieces that the fields of a LOAD or SAVE hold; pieces further apart go one by one.
_PIXEL, _PITCH = 1024, 1 << 16


@dataclass(frozen=True, slots=True)
class Transfer:
    """`pieces` pieces of `size` bytes, `pitch` bytes apart in memory and `pixel` words apart in the bank."""

    register: int
    address: int
    pitch: int
    bank: int
    word: int
    pixel: int
    pieces: int
    size: int


def loads(
    transfer: Transfer, stream: Stream, layer: int, target: Target, *, pad_start: int = 0, pad_end: int = 0
) -> Iterator[Step]:
    """LOADs of a transfer. Masks are in bytes: of the first pieces' start, of the last piece's end."""
    for part, last in _cut(transfer, target):
        words = ceil_div(part.size, target.input_parallel)
        load = Load(
            dpdon=1 << Engine.LOAD,
            dpdby=1 << Engine.LOAD,
            bank_id=part.bank,
            bank_addr=part.word,
            jump_write=part.pixel if part.pieces > 1 else words,
            jump_read=part.pitch if part.pieces > 1 or pad_start or pad_end else part.size,
            length=part.pieces,
            channel=part.size,
            reg_id=part.register,
            ddr_addr=part.address,
            pad_start=pad_start if part.address == transfer.address else 0,
            pad_end=pad_end + words * target.input_parallel - part.size if pad_end and last else 0,
        )
        span = Span(part.bank, part.word, (part.pieces - 1) * part.pixel + words)
        memory = Memory(part.register, part.address, part.address + (part.pieces - 1) * part.pitch + part.size)
        yield Step(load, stream, layer, writes=(span,), reads_memory=memory if part.register == WORKSPACE else None)


def saves(transfer: Transfer, layer: int, target: Target) -> Iterator[Step]:
    """SAVEs of a transfer."""
    for part, _ in _cut(transfer, target):
        words = ceil_div(part.size, target.input_parallel)
        save = Save(
            bank_id=part.bank,
            bank_addr=part.word,
            jump_read=part.pixel if part.pieces > 1 else words,
            jump_write=part.pitch if part.pieces > 1 else part.size,
            length=part.pieces,
            channel=part.size,
            reg_id=part.register,
            ddr_addr=part.address,
        )
        span = Span(part.bank, part.word, (part.pieces - 1) * part.pixel + words)
        memory = Memory(part.register, part.address, part.address + (part.pieces - 1) * part.pitch + part.size)
        yield Step(save, Stream.SAVE, layer, reads=(span,), writes_memory=memory)


def _cut(transfer: Transfer, target: Target) -> Iterator[tuple[Transfer, bool]]:
    """What one instruction moves at a time, and whether it is the last."""
    lanes = target.input_parallel
    parts = [part for column in _narrow(transfer, lanes) for part in _short(column, target)]
    for part in parts:
        yield part, part is parts[-1]


def _narrow(transfer: Transfer, lanes: int) -> Iterator[Transfer]:
    """Pieces of at most so many bytes. A single long one becomes several short ones behind each other."""
    most = _CHANNELS // lanes * lanes
    if transfer.size <= most:
        yield transfer
    elif transfer.pieces == 1:
        count = ceil_div(transfer.size, most)
        size = ceil_div(transfer.size, count * lanes) * lanes
        whole = transfer.size // size
        yield dataclasses.replace(transfer, pieces=whole, size=size, pitch=size, pixel=size // lanes)
        if rest := transfer.size - whole * size:
            word = transfer.word + whole * size // lanes
            yield dataclasses.replace(transfer, address=transfer.address + whole * size, word=word, size=rest)
    else:
        for first in range(0, transfer.size, most):
            size = min(most, transfer.size - first)
            word = transfer.word + first // lanes
            yield dataclasses.replace(transfer, address=transfer.address + first, word=word, size=size)


def _short(transfer: Transfer, target: Target) -> Iterator[Transfer]:
    """As many pieces as one instruction moves."""
    together = 1 if transfer.pixel > _PIXEL or transfer.pitch > _PITCH else _PIECES
    at_once = min(together, max(1, target.transfer_words // ceil_div(transfer.size, target.input_parallel)))
    if transfer.pieces <= at_once and transfer.word < target.bank_words:
        yield transfer
        return
    for first in range(0, transfer.pieces, at_once):
        yield dataclasses.replace(
            transfer,
            address=transfer.address + first * transfer.pitch,
            word=(transfer.word + first * transfer.pixel) % target.bank_words,
            pieces=min(at_once, transfer.pieces - first),
        )
