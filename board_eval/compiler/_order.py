"""The order of the code: that in which instructions would start.

Engines fetch from one stream of code, so code in the order of starting times keeps every engine's queue short. LOADs of
parameters and of rows touch different memories and may pass one another: whichever can start first does.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgesearch.board_eval.compiler._hazards import conflicts
from edgesearch.board_eval.compiler._step import Step, Stream, Timed
from edgesearch.board_eval.isa import Engine
from edgesearch.board_eval.targets import Target

__all__ = ["in_order_of_start"]


def in_order_of_start(
    steps: Sequence[Step], cycles: Sequence[float], target: Target, *, ahead: int | None = None
) -> list[Timed]:
    """The steps in the order of their starting times, each waiting for what it needs; `cycles` is what each takes.

    The given order must be one in which they can be executed one by one; so is the returned one. At most `ahead` loads of
    parameters that others wait for stand before the first of those others (None: any number).
    """
    waits = conflicts(steps, [step.stream for step in steps], target)
    awaited, waiting = _awaited(steps, waits)
    outstanding = 0
    queues: list[list[int]] = [[] for _ in Stream]
    for number, step in enumerate(steps):
        queues[step.stream].append(number)
    heads = [0] * len(Stream)
    free = [0.0] * len(Engine)
    ends: list[float | None] = [None] * len(steps)
    ready: list[float | None] = [None] * len(Stream)
    ordered: list[Timed] = []
    clock = 0.0
    while len(ordered) < len(steps):
        chosen, start = -1, 0.0
        for stream in Stream:
            if heads[stream] == len(queues[stream]):
                continue
            if ready[stream] is None:
                ready[stream] = _ready(waits[queues[stream][heads[stream]]], ends)
            at = ready[stream]
            if at is None:
                continue
            held = stream is Stream.PARAMETERS and ahead is not None and outstanding >= ahead
            if held and awaited[queues[stream][heads[stream]]]:
                continue
            at = max(at, free[stream.engine])
            number = queues[stream][heads[stream]]
            if chosen < 0 or (at, number) < (start, queues[chosen][heads[chosen]]):
                chosen, start = stream, at
        number = queues[chosen][heads[chosen]]
        # what was held back starts when it is let go, not when it could have
        start = clock = max(start, clock)
        heads[chosen] += 1
        ready[chosen] = None
        ends[number] = free[steps[number].stream.engine] = start + cycles[number]
        ordered.append(Timed(steps[number], start, start + cycles[number]))
        outstanding += awaited[number] - waiting[number]
    return ordered


def _awaited(steps: Sequence[Step], waits: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """Per step, how many others wait for it as a load of parameters, and for how many such loads it waits."""
    awaited, waiting = [0] * len(steps), [0] * len(steps)
    for number, others in enumerate(waits):
        for other in others:
            if steps[other].stream is Stream.PARAMETERS:
                awaited[other] += 1
                waiting[number] += 1
    return awaited, waiting


def _ready(waits: tuple[int, ...], ends: Sequence[float | None]) -> float | None:
    """When all that is waited for has ended; None while that is not known."""
    latest = 0.0
    for other in waits:
        end = ends[other]
        if end is None:
            return None
        latest = max(latest, end)
    return latest
