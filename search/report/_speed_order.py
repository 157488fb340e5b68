"""How sure predicted speeds are, and whose order on a front they leave open."""

from __future__ import annotations

from collections.abc import Sequence

from edgesearch.search.study import Record

#: Trials that a note names.
_NAMED = 12


def speed_interval(record: Record) -> tuple[float, float] | None:
    """The 90 % interval of a trial's images per second, whose time is known to a share; None: measured, or not known."""
    error = record.figure("fps_error")
    if record.fps is None or error is None:
        return None
    return record.fps / (1 + error), record.fps / (1 - error)


def alike(front: Sequence[Record]) -> dict[int, list[int]]:
    """Trial -> the other members whose intervals meet its own, by number; a measured speed is an interval of no width."""
    intervals: dict[int, tuple[float, float]] = {}
    for record in front:
        if record.fps is not None:
            intervals[record.number] = speed_interval(record) or (record.fps, record.fps)
    return {
        number: sorted(other for other, (least, most) in intervals.items() if other != number and least <= high and low <= most)
        for number, (low, high) in intervals.items()
    }


def speed_note(front: Sequence[Record]) -> str:
    """How sure predicted frames per second are, and whose order they leave open; "" where none has an interval."""
    if not any(speed_interval(record) for record in front):
        return ""
    near = alike(front)
    speeds = {record.number: record.fps for record in front if record.fps is not None}
    by_speed = sorted(speeds, key=lambda number: (-speeds[number], number))
    close = [str(number) for place, number in enumerate(by_speed) if any(faster in near[number] for faster in by_speed[:place])]
    note = "±% behind FPS, and behind the latency, is half the 90 % interval of a predicted time."
    if not close:
        return note
    more = f" and {len(close) - _NAMED} more" if len(close) > _NAMED else ""
    return f"{note} Within it of a faster one of the front: trial {', '.join(close[:_NAMED])}{more}."
