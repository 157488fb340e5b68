"""Small random programs before tokens, and what of them must not be turned round, in the slow and obvious way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

from edgesearch.board_eval.compiler._rows import Span
from edgesearch.board_eval.compiler._step import Memory, Step, Stream
from edgesearch.board_eval.isa import Conv, ConvInit, Elew, Instruction, Load, Save
from edgesearch.board_eval.targets import DPUS, Dpu

TARGET: Dpu = DPUS["B512"]
_CELL = 64
_INSTRUCTION: dict[Stream, Instruction] = {
    Stream.ROWS: Load(),
    Stream.PARAMETERS: Load(),
    Stream.SAVE: Save(),
    Stream.CONV: Conv(),
    Stream.MISC: Elew(),
}

_spans = st.builds(
    Span, bank=st.integers(0, 3), start=st.sampled_from([0, 3, 6, 2045]), words=st.integers(1, 7), banks=st.integers(1, 2)
)
_memory = st.builds(lambda start, size: Memory(1, start, start + size), st.integers(0, 300), st.integers(1, 90))


@st.composite
def _step(draw: st.DrawFn) -> Step:
    stream = draw(st.sampled_from(list(Stream)))
    if stream is Stream.CONV and draw(st.integers(0, 3)) == 0:
        return Step(ConvInit(), stream, 0)
    step = Step(_INSTRUCTION[stream], stream, 0)
    if stream in (Stream.ROWS, Stream.PARAMETERS):
        step.writes = (draw(_spans),)
        step.reads_memory = draw(_memory)
    elif stream is Stream.SAVE:
        step.reads = (draw(_spans),)
        step.writes_memory = draw(_memory)
    else:
        step.reads = tuple(draw(st.lists(_spans, min_size=1, max_size=2)))
        step.writes = (draw(_spans),)
    return step


programs: st.SearchStrategy[list[Step]] = st.lists(_step(), min_size=1, max_size=18)


def _touched(spans: Sequence[Span], memory: Memory | None) -> set[object]:
    """Words of banks, and cells of memory, which are guarded together."""
    words = {
        (span.bank + bank, (span.start + word) % TARGET.bank_words)
        for span in spans
        for bank in range(span.banks)
        for word in range(span.words)
    }
    return words if memory is None else words | set(range(memory.start // _CELL, -(-memory.stop // _CELL)))


def colliding(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """Pairs of steps, the earlier first, of which one writes what the other reads or writes."""
    reads = [_touched(step.reads, step.reads_memory) for step in steps]
    writes = [_touched(step.writes, step.writes_memory) for step in steps]
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(steps)), 2)
        if not (writes[a].isdisjoint(reads[b]) and writes[a].isdisjoint(writes[b]) and writes[b].isdisjoint(reads[a]))
    ]


def before(count: int, edges: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Per step, all that have ended when it begins: the transitive closure of (earlier, later)."""
    out: list[set[int]] = [set() for _ in range(count)]
    for earlier, later in sorted(edges, key=lambda edge: edge[1]):
        out[later] |= {earlier, *out[earlier]}
    return out


def lane_edges(lanes: Sequence[int]) -> list[tuple[int, int]]:
    """Every step behind the last one on its lane."""
    last: dict[int, int] = {}
    out = []
    for number, lane in enumerate(lanes):
        if lane in last:
            out.append((last[lane], number))
        last[lane] = number
    return out
