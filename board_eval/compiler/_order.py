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


def in_order_of_start(steps: Sequence[Step], cycles: Sequence[float], target: Target) -> list[Timed]:
    """The steps in the order of their starting times, each waiting for what it needs; `cycles` is what each takes.

    The given order must be one in which they can be executed one by one; so is the returned one.
    """
    waits = conflicts(steps, [step.stream for step in steps], target)
    queues: list[list[int]] = [[] for _ in Stream]
    for number, step in enumerate(steps):
        queues[step.stream].append(number)
    heads = [0] * len(Stream)
    free = [0.0] * len(Engine)
    ends: list[float | None] = [None] * len(steps)
    ready: list[float | None] = [None] * len(Stream)
    ordered: list[Timed] = []
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
            at = max(at, free[stream.engine])
            number = queues[stream][heads[stream]]
            if chosen < 0 or (at, number) < (start, queues[chosen][heads[chosen]]):
                chosen, start = stream, at
        number = queues[chosen][heads[chosen]]
        heads[chosen] += 1
        ready[chosen] = None
        ends[number] = free[steps[number].stream.engine] = start + cycles[number]
        ordered.append(Timed(steps[number], start, start + cycles[number]))
    return ordered


def _ready(waits: tuple[int, ...], ends: Sequence[float | None]) -> float | None:
    """When all that is waited for has ended; None while that is not known."""
    latest = 0.0
    for other in waits:
        end = ends[other]
        if end is None:
            return None
        latest = max(latest, end)
    return latest
