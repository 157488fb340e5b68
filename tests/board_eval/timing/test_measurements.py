"""Rows appended to a measurement file, and read again."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgesearch.board_eval.timing import MeasurementRow, append_measurements, appendable_columns
from edgesearch.board_eval.timing._measurements import read_measurements
from edgesearch.errors import MeasurementError

ROWS = (
    MeasurementRow("a, b.xmodel", "latency", 301.5, "python"),
    MeasurementRow("a, b.xmodel", "throughput", 842.125, "cpp", 2),
)


def test_rows_are_read_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for row in ROWS:
        append_measurements(path, [row])
    assert read_measurements(path) == ROWS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("net,throughput,842,1", r"line 2: .*'1' behind fps 842: a decimal comma\? write 842\.1, or end the row"),
        ("net,latency,1_0,,", "line 2: fps is '1_0', expected a number"),
    ],
)
def test_a_figure_that_may_mean_another_is_refused(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"network,what,fps,cores,runner\n{row}\n")
    with pytest.raises(MeasurementError, match=message):
        read_measurements(path)


def test_a_row_may_leave_out_what_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("network,what,fps,cores,runner\na,latency,301.5\nb,throughput,842.1,1,\n")
    assert [(row.fps, row.cores) for row in read_measurements(path)] == [(301.5, None), (842.1, 1)]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_keeps_its_own_columns_and_rows(end: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"fps,family,what,network,cores,runner\n12,x,latency,net,,cpp{end}")
    append_measurements(path, ROWS)
    assert read_measurements(path) == (MeasurementRow("net", "latency", 12.0, "cpp", None, "x"), *ROWS)


def test_programs_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [MeasurementRow(f"net{number}", "latency", 1.0 + number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: append_measurements(path, [row]), rows))
    assert set(read_measurements(path)) == set(rows)


def test_a_file_that_cannot_be_appended_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("network,what,fps\n")
    with pytest.raises(MeasurementError, match="has no column 'runner' to append to"):
        appendable_columns(path)
    with pytest.raises(MeasurementError, match="no column 'runner'"):
        append_measurements(path, ROWS)
    assert path.read_text() == "network,what,fps\n"
    with pytest.raises(MeasurementError, match="cannot be written: Is a directory"):
        append_measurements(tmp_path, ROWS)
    with pytest.raises(MeasurementError, match="/dev/full is no file"):
        appendable_columns(Path("/dev/full"))
    with pytest.raises(MeasurementError, match=r"new\.csv cannot be written: there is no folder"):
        appendable_columns(tmp_path / "nowhere" / "new.csv")
    assert appendable_columns(tmp_path / "new.csv") == ("network", "what", "fps", "runner", "cores")


def test_a_file_that_may_only_be_read_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    append_measurements(path, ROWS)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(MeasurementError, match="cannot be written: it is read-only; give another file"):
        appendable_columns(path)


def test_a_name_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_measurements(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(MeasurementError, match=r"the name .*net\\udcff.* of a network is no UTF-8; rename the file"):
        append_measurements(path, [ROWS[0], MeasurementRow("net\udcff.xmodel", "latency", 1.0)])
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_measurements(path, ROWS)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(MeasurementError, match="cannot be written: No space left"):
            append_measurements(path, [MeasurementRow("net", "latency", 12.0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
