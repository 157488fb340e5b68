"""Reports of a hostile board: any bytes give a report or BoardLost."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.remote import BoardProbe, RunReport
from edgesearch.board_eval.remote._report import logits_bytes, parse_logits, parse_report
from edgesearch.errors import BoardLost

from .._sshd import REPORT


def test_a_report_is_read() -> None:
    report = parse_report(json.dumps(REPORT).encode(), RunReport, "lab")
    assert (report.latency.median_ms, report.throughput.fps, report.board.dpu_cores) == (0.5, 4000.0, 2)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, part in inside for place in _places(part, (*at, key))]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=400)
@given(st.sampled_from(_places(REPORT)), _JSON | st.sampled_from([1e308, -1, 10**400, "\x1b[2J", "\ud800", "x" * 10**5]))
def test_whatever_stands_in_a_report_it_is_a_report_or_the_board_is_lost(place: tuple[Any, ...], value: Any) -> None:
    changed = copy.deepcopy(REPORT)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    try:
        report = parse_report(json.dumps(changed).encode(), RunReport, "lab")
    except BoardLost as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    assert 0 < report.latency.median_ms < float("inf")
    assert 0 < report.throughput.fps < float("inf")
    assert (report.runner_version + (report.measured_at or "")).isprintable()


@given(st.binary(max_size=300) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_report_or_the_board_is_lost(content: bytes) -> None:
    for kind in (RunReport, BoardProbe):
        with pytest.raises(BoardLost, match="'lab'"):
            parse_report(content, kind, "lab")


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"NaN", b"1" * 10_000, b" " * ((1 << 20) + 1), b"null"],
    ids=["empty", "nested lists", "nested objects", "no UTF-8", "NaN", "a long number", "too large", "null"],
)
def test_what_is_no_report(content: bytes) -> None:
    with pytest.raises(BoardLost):
        parse_report(content, RunReport, "lab")


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(("images", "values"), [(1, 1), (7, 10), (1000, 1000)])
def test_logits_are_read_as_numpy_wrote_them(images: int, values: int) -> None:
    logits = np.random.default_rng(0).integers(-128, 128, (images, values)).astype(np.int8)
    content = _npy(logits)
    assert len(content) <= logits_bytes(images, values)
    assert np.array_equal(parse_logits(content, images, values, "lab"), logits)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        _npy(np.zeros((3, 10), np.int8))[:-1],
        _npy(np.zeros((3, 10), np.int8)) + b"x",
        _npy(np.zeros((10, 3), np.int8)),
        _npy(np.zeros((3, 10), np.uint8)),
        _npy(np.zeros((10, 3), np.int8).T),
        _npy(np.zeros((3, 10), np.float32)),
        _npy(np.array([[{}]], object)),
        _npy(np.zeros((3, 10), np.int8)).replace(b"(3, 10)", b"(9**9,)"),
        _npy(np.zeros((3, 10), np.int8)).replace(b"(3, 10)", b"(" * 7),
    ],
)
def test_other_files_are_no_logits(content: bytes) -> None:
    with pytest.raises(BoardLost, match=r"not int8 of shape \(3, 10\)"):
        parse_logits(content, 3, 10, "lab")


@given(st.data())
def test_logits_with_bytes_changed_are_logits_or_the_board_is_lost(data: st.DataObject) -> None:
    content = bytearray(_npy(np.zeros((3, 10), np.int8)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BoardLost):
        assert parse_logits(bytes(content), 3, 10, "lab").shape == (3, 10)
