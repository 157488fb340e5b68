from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._step import Stream
from edgesearch.board_eval.compiler._transfer import Transfer, loads, saves
from edgesearch.board_eval.isa import End, decode, encode
from edgesearch.board_eval.machine import Machine
from edgesearch.board_eval.targets import DPUS


@st.composite
def transfers(draw: st.DrawFn) -> tuple[str, Transfer]:
    size = draw(st.sampled_from(sorted(DPUS)))
    target = DPUS[size]
    piece = draw(st.one_of(st.integers(1, 40), st.integers(1, 6000)))
    words = -(-piece // target.input_parallel)
    pixel = words + draw(st.sampled_from([0, 0, 1, 5]))
    pieces = draw(st.integers(1, max(1, min(1500, (target.bank_words - words) // pixel + 1))))
    pitch = piece + draw(st.sampled_from([0, 0, 1, 300, 70_000]))
    if pieces * pitch > 1 << 21:
        pieces = max(1, (1 << 21) // pitch)
    word = draw(st.integers(0, target.bank_words - 1))
    return size, Transfer(2, draw(st.integers(0, 99)), pitch, draw(st.integers(0, 7)), word, pixel, pieces, piece)


@given(transfers(), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_pieces_come_whole_into_their_words_and_back(case: tuple[str, Transfer], seed: int) -> None:
    size, transfer = case
    target, rng = DPUS[size], np.random.default_rng(seed)
    lanes, depth = target.input_parallel, target.bank_words
    reach = transfer.address + (transfer.pieces - 1) * transfer.pitch + transfer.size
    memory = rng.integers(0, 256, reach, dtype=np.uint8)
    there = list(loads(transfer, Stream.ROWS, 3, target))
    machine = Machine(target, {2: memory})
    machine.memory[:] = rng.integers(-128, 128, machine.memory.shape)
    before = machine.memory.copy()
    machine.run([*(step.instruction for step in there), End()])
    words = -(-transfer.size // lanes)
    expected = before[transfer.bank]
    for piece in range(transfer.pieces):
        start = transfer.address + piece * transfer.pitch
        content = np.zeros(words * lanes, np.int8)
        content[: transfer.size] = memory[start : start + transfer.size].view(np.int8)
        expected[(transfer.word + piece * transfer.pixel + np.arange(words)) % depth] = content.reshape(words, lanes)
    assert np.array_equal(machine.memory[transfer.bank], expected)
    back = list(saves(transfer, 3, target))
    out = Machine(target, {2: np.zeros(reach, np.uint8)})
    out.memory[:] = machine.memory
    out.run([*(step.instruction for step in back), End()])
    for piece in range(transfer.pieces):
        start = transfer.address + piece * transfer.pitch
        assert np.array_equal(out.registers[2][start : start + transfer.size], memory[start : start + transfer.size])
    for steps in (there, back):
        program = (*(step.instruction for step in steps), End())
        assert decode(encode(program)) == program
        for step in steps:
            assert step.layer == 3
            moved = step.instruction.length * -(-step.instruction.channel // lanes)  # type: ignore[attr-defined]
            assert moved <= target.transfer_words


@given(transfers())
@settings(deadline=None, max_examples=50)
def test_what_a_transfer_touches_is_what_its_steps_say(case: tuple[str, Transfer]) -> None:
    size, transfer = case
    depth = DPUS[size].bank_words
    words = -(-transfer.size // DPUS[size].input_parallel)
    touched = {
        (transfer.word + piece * transfer.pixel + word) % depth for piece in range(transfer.pieces) for word in range(words)
    }
    spans = [span for step in loads(transfer, Stream.ROWS, 0, DPUS[size]) for span in step.writes]
    assert touched <= {(span.start + word) % depth for span in spans for word in range(span.words)}
    parts = [step.writes_memory for step in saves(transfer, 0, DPUS[size])]
    stop = transfer.address + (transfer.pieces - 1) * transfer.pitch + transfer.size
    assert min(part.start for part in parts if part) == transfer.address
    assert max(part.stop for part in parts if part) == stop
