"""How sure predicted speeds are, and whose order on a front they leave open."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgesearch.search.report._named import named
from edgesearch.search.study import Record


def speed_interval(record: Record) -> tuple[float, float] | None:
    """The 90 % interval of a trial's images per second, whose time is known to a share; None: measured, or not known."""
    error = record.figure("fps_error")
    if record.fps is None or error is None:
        return None
    return record.fps / (1 + error), record.fps / (1 - error)


def alike(front: Sequence[Record]) -> dict[int, list[int]]:
    """Trial -> the other members whose intervals meet its own, by number; a measured speed is an interval of no width."""
    known = {r.number: speed_interval(r) or (r.fps, r.fps) for r in front if r.fps is not None}
    numbers = np.sort(np.array(list(known), np.int64))
    low, high = np.array([known[number] for number in numbers.tolist()], np.float64).reshape(-1, 2).T
    meet = {number: numbers[(low <= most) & (high >= least)].tolist() for number, (least, most) in known.items()}
    return {number: [other for other in others if other != number] for number, others in meet.items()}


def speed_note(front: Sequence[Record]) -> str:
    """How sure predicted frames per second are, and whose order they leave open; "" where none has an interval."""
    if not any(speed_interval(record) for record in front):
        return ""
    speeds = {record.number: (record.fps, speed_interval(record)) for record in front if record.fps is not None}
    close, least_of_faster = [], math.inf
    for number, (fps, interval) in sorted(speeds.items(), key=lambda item: (-item[1][0], item[0])):
        least, most = interval or (fps, fps)
        if least_of_faster <= most:  # the interval of a faster one ends above this one's speed, at any rate
            close.append(str(number))
        least_of_faster = min(least_of_faster, least)
    note = "±% behind FPS, and behind the latency, is half the 90 % interval of a predicted time."
    if not close:
        return note
    return f"{note} Within it of a faster one of the front: trial {named(close)}."
