from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._banks import Group
from edgesearch.board_eval.compiler._rows import Rows, Span, ceil_div
from edgesearch.board_eval.isa import WINDOW_ROUNDS


@st.composite
def rows_of_maps(draw: st.DrawFn) -> Rows:
    """Rows of a map that fits its banks."""
    banks, depth, stride = draw(st.sampled_from([4, 8])), 2048, draw(st.integers(1, 4))
    pixel, columns = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    most = depth // (stride * pixel * columns)
    rounds = draw(st.integers(1, min(most, 6)))
    first = banks * draw(st.integers(0, 1))
    return Rows(first, banks, depth, draw(st.integers(0, depth - 1)), pixel, columns, stride, rounds, draw(st.integers(0, 9)))


def words_of(span: Span, depth: int) -> set[tuple[int, int]]:
    return {(span.bank + bank, (span.start + word) % depth) for bank in range(span.banks) for word in range(span.words)}


@given(rows_of_maps(), st.integers(0, 50))
@settings(deadline=None)
def test_no_two_live_rows_share_a_word(rows: Rows, first: int) -> None:
    """As many rows as it holds, from any row on."""
    seen: set[tuple[int, int]] = set()
    for row in range(first, first + rows.capacity):
        words = words_of(rows.span(row, rows.first_column, rows.columns), rows.depth)
        assert len(words) == rows.line
        assert not words & seen
        seen |= words
    again = words_of(rows.span(first + rows.capacity, rows.first_column, rows.columns), rows.depth)
    assert again == words_of(rows.span(first, rows.first_column, rows.columns), rows.depth)
    assert len(seen) == rows.words * rows.banks


@given(rows_of_maps(), st.integers(-20, 60), st.integers(-3, 30))
@settings(deadline=None)
def test_a_window_finds_every_row_where_it_was_put(rows: Rows, row: int, column: int) -> None:
    bank, offset, addresses = rows.window(row, column)
    assert len(addresses) == WINDOW_ROUNDS
    first = bank - rows.first_bank
    for t in range(min(rows.capacity, WINDOW_ROUNDS * rows.banks * rows.stride - first * rows.stride - offset)):
        step, line = divmod(offset + t, rows.stride)
        around, within = divmod(first + step, rows.banks)
        place = rows.place(row + t, column)
        assert place.bank == rows.first_bank + within
        assert place.word == (addresses[around] + line * rows.line) % rows.depth


@given(rows_of_maps(), st.integers(0, 40), st.data())
@settings(deadline=None)
def test_a_span_of_some_words_of_a_pixel_lies_within_that_of_all(rows: Rows, row: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, rows.pixel - 1))
    words = data.draw(st.integers(1, rows.pixel - first))
    part = rows.span(row, rows.first_column, rows.columns, first_word=first, words=words)
    touched = {
        (rows.place(row, column).bank, (rows.place(row, column).word + first + word) % rows.depth)
        for column in range(rows.first_column, rows.first_column + rows.columns)
        for word in range(words)
    }
    assert touched <= words_of(part, rows.depth) <= words_of(rows.span(row, rows.first_column, rows.columns), rows.depth)


@given(st.integers(-100, 100), st.integers(1, 20))
def test_quotients_are_rounded_up(a: int, b: int) -> None:
    assert ceil_div(a, b) == -(-a // b) == int(np.ceil(a / b))


# -- groups


class SlowGroup:
    """The same by trying every address."""

    def __init__(self, depth: int) -> None:
        self.taken = [False] * depth
        self.next = 0

    def take(self, words: int) -> int | None:
        depth = len(self.taken)
        for i in range(depth):
            start = (self.next + i) % depth
            places = [(start + word) % depth for word in range(words)]
            if words <= depth and not any(self.taken[place] for place in places):
                for place in places:
                    self.taken[place] = True
                self.next = (start + words) % depth
                return start
        return None

    def give(self, address: int, words: int) -> None:
        for word in range(words):
            self.taken[(address + word) % len(self.taken)] = False


@given(st.integers(1, 40), st.lists(st.one_of(st.integers(1, 45), st.none()), max_size=40))
@settings(deadline=None)
def test_a_group_gives_the_next_free_piece(depth: int, asked: list[int | None]) -> None:
    """Numbers take so many words, None gives the oldest piece back."""
    group, slow = Group(depth), SlowGroup(depth)
    held: list[tuple[int, int]] = []
    for words in asked:
        if words is None:
            if held:
                piece = held.pop(0)
                group.give(*piece)
                slow.give(*piece)
            continue
        copy = group.copy()
        found = group.take(words)
        assert found == slow.take(words)
        assert found == copy.take(words)
        if found is not None:
            held.append((found, words))
        assert group.taken == slow.taken
        assert group.free == slow.taken.count(False)
