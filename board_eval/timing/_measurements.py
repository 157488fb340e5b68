"""Measured frames per second, as rows and as a CSV file."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from edgesearch.errors import MeasurementError

What: TypeAlias = Literal["latency", "throughput"]

#: Columns of a measurement file. `cores` belongs to throughput rows; `runner`, `cores` and `family` may be left empty.
COLUMNS = ("network", "what", "fps", "runner", "cores", "family")
_FPS_LIMIT = 1e6
_WHAT: Mapping[str, What] = {"latency": "latency", "throughput": "throughput"}


@dataclass(frozen=True)
class MeasurementRow:
    """One measured figure: latency is one thread with one image in flight, throughput is all of `cores` busy.

    `line`: where it stands in its file; it makes no two rows different.
    """

    network: str
    what: What
    fps: float
    runner: str = ""  # "": the profile's default
    cores: int | None = None  # None: as many as the board has
    family: str = ""
    line: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{f'line {self.line}, ' if self.line else ''}{self.what} of {self.network!r}"


def read_measurements(path: Path) -> tuple[MeasurementRow, ...]:
    """The rows of a CSV file with the columns network, what, fps and optionally runner, cores, family.

    Raises MeasurementError naming the line for missing or impossible values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
            if missing:
                raise MeasurementError(
                    f"{path}: no column {missing[0]!r}; expected a header of {', '.join(COLUMNS[:3])} and, if you like, "
                    f"{', '.join(COLUMNS[3:])}, separated by commas (docs/calibrate.md)"
                )
            twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
            if twice:
                raise MeasurementError(f"{path}: two columns {twice[0]!r}; leave one of them out")
            unknown = [name for name in reader.fieldnames or () if name not in COLUMNS]
            if unknown:
                raise MeasurementError(f"{path}: unknown column {unknown[0]!r}; expected {', '.join(COLUMNS)}")
            rows = _distinct(path, ((reader.line_num, _row(path, reader.line_num, record)) for record in reader))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MeasurementError(f"{path} cannot be read as CSV: {error}") from error
    if not rows:
        raise MeasurementError(f"{path} has no measurements below its header")
    return rows


#: Of a number of cores.
_DIGITS = 6


def _distinct(path: Path, rows: Iterable[tuple[int, MeasurementRow]]) -> tuple[MeasurementRow, ...]:
    """The rows. Measuring again gives another figure: an equal one is the same line twice, and would count twice."""
    lines: dict[MeasurementRow, int] = {}
    found = []
    for line, row in rows:
        measured = replace(row, network=os.path.normpath(path.parent / row.network))  # a path has several spellings
        if measured in lines:
            raise MeasurementError(
                f"{path}, line {line}: the same measurement as line {lines[measured]}; leave one of them out"
            )
        lines[measured] = line
        found.append(row)
    return tuple(found)


def _row(path: Path, line: int, record: Mapping[str | None, str | None]) -> MeasurementRow:
    def value(name: str) -> str:
        return (record.get(name) or "").strip()

    def fail(message: str) -> MeasurementError:
        return MeasurementError(f"{path}, line {line}: {message}")

    if None in record:
        raise fail("more values than the header has columns")
    network = value("network")
    if not network:
        raise fail("no network")
    what = _WHAT.get(value("what"))
    if what is None:
        raise fail(f"what is {value('what')!r}, expected 'latency' or 'throughput'")
    try:
        fps = float(value("fps").replace("_", "?"))  # Python takes 1_0 for 10
    except ValueError as error:
        raise fail(f"fps is {value('fps')!r}, expected a number") from error
    names = list(record)
    behind = next(iter(names[names.index("fps") + 1 :]), None)
    if None in record.values() and (digits := (record.get(behind) or "").strip()).isdecimal():
        raise fail(
            f"fewer values than the header has columns, and {digits!r} behind fps {value('fps')}: a decimal comma? write "
            f"{value('fps')}.{digits}, or end the row with a comma for each value that is not given"
        )
    if not 0 < fps < _FPS_LIMIT:
        raise fail(f"fps is {fps:g}, expected more than 0 and less than {_FPS_LIMIT:g}")
    cores = value("cores")
    if cores and (not cores.isdecimal() or len(cores) > _DIGITS or int(cores) < 1):
        raise fail(f"cores is {cores!r}, expected a whole number of at least 1")
    if cores and what == "latency" and int(cores) != 1:
        raise fail(f"cores is {cores} in a row of latency, which is of one image in flight; leave it empty")
    return MeasurementRow(network, what, fps, value("runner"), int(cores) if cores else None, value("family"), line)


def appendable_columns(path: str | Path) -> tuple[str, ...]:
    """The columns of a measurement file, in its order; the usual ones where there is no file yet, or nothing in it.

    Raises MeasurementError when it cannot be read or written, or lacks a column that rows are appended with.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # /dev/full has no end
        raise MeasurementError(f"{path} is no file; give another one to append to")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), None)
        if not os.access(path, os.W_OK):
            raise MeasurementError(f"{path} cannot be written: it is read-only; give another file to append to")
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise MeasurementError(f"{path} cannot be written: there is no folder {str(path.parent)!r}") from error
        header = None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MeasurementError(f"{path} cannot be read as CSV: {error}; give another file to append to") from error
    if header is None:
        return COLUMNS[:5]
    missing = [name for name in COLUMNS[:5] if name not in header]
    if missing:
        raise MeasurementError(
            f"{path} has no column {missing[0]!r} to append to; expected {', '.join(COLUMNS[:5])}; give another file"
        )
    return tuple(header)


def append_measurements(path: str | Path, rows: Sequence[MeasurementRow]) -> None:
    """Append rows to a file that `read_measurements` reads, all or none; a new file gets a header.

    Raises MeasurementError when the file cannot be written, or a network's name is no UTF-8.
    """
    path = Path(path)
    try:
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two programs may append to one file
            columns = appendable_columns(path)
            size = file.seek(0, io.SEEK_END)
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            if size == 0:
                writer.writeheader()
            elif _ends_within_a_line(file, size):
                text.write("\n")
            writer.writerows({name: _cell(row, name) for name in columns} for row in rows)
            content = _encoded(text.getvalue(), path)
            if file.write(content) != len(content):  # a full disk takes a part
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be written: {error.strerror or error}; append to another file") from error


def _encoded(text: str, path: Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # a file's name may be of any bytes
        raise MeasurementError(
            f"nothing was appended to {path}: the name {error.object[error.start - 20 : error.end + 20]!r} of a network is no "
            "UTF-8; rename the file"
        ) from error


def _ends_within_a_line(file: io.FileIO, size: int) -> bool:
    file.seek(size - 1)
    return file.read(1) not in (b"\n", b"\r")


def _cell(row: MeasurementRow, name: str) -> object:
    value = getattr(row, name, None)
    return "" if value is None else value
