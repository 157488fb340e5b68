"""The order of the code: that in which instructions would start.

Engines fetch from one stream of code, so code in the order of starting times keeps every engine's queue short. LOADs of
parameters and of rows touch different memories and may pass one another: whichever can start first does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgesearch.board_eval.compiler._hazards import conflicts
from edgesearch.board_eval.compiler._step import Step, Stream, Timed
from edgesearch.board_eval.isa import Engine
from edgesearch.board_eval.targets import Target

__all__ = ["in_order_of_start"]


def in_order_of_start(steps: Sequence[Step], cycles: Sequence[float], target: Target) -> list[Timed]:
    """The steps in the order of their starting times, each waiting for what it needs; `cycles` is what each takes.

    The given order must be one in which they can be executed one by one; so is the returned one.
    """
    waits = conflicts(steps, target)
    queues = [_Queue(stream) for stream in Stream]
    for number, step in enumerate(steps):
        queues[step.stream].numbers.append(number)
    positions = [0] * len(steps)
    free = [0.0] * len(Engine)
    ends: list[float | None] = [None] * len(steps)
    ordered: list[Timed] = []
    while len(ordered) < len(steps):
        _, number, queue = min(
            (max(queue.ready, free[queue.engine]), queue.numbers[queue.head], queue)
            for queue in queues
            if queue.is_ready(waits, ends)
        )
        start = max(queue.ready, free[queue.engine])
        end = start + cycles[number]
        queue.head += 1
        queue.ready = _UNKNOWN
        ends[number] = free[queue.engine] = end
        positions[number] = len(ordered)
        ordered.append(Timed(steps[number], start, end, tuple(positions[other] for other in waits[number])))
    return ordered


_UNKNOWN = -1.0


@dataclass(slots=True, order=True)
class _Queue:
    """The steps of a stream that have not started."""

    stream: Stream
    numbers: list[int] = field(default_factory=list, compare=False)
    head: int = field(default=0, compare=False)
    #: When all has ended that the first one waits for; unknown before all of that has started.
    ready: float = field(default=_UNKNOWN, compare=False)
    #: One that it waits for and that has not started; -1: none is known.
    blocked_by: int = field(default=-1, compare=False)
    engine: Engine = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.engine = self.stream.engine

    def is_ready(self, waits: Sequence[tuple[int, ...]], ends: Sequence[float | None]) -> bool:
        """Whether there is a first step, and it is known when it could start."""
        if self.ready != _UNKNOWN:
            return True
        if self.head == len(self.numbers) or (self.blocked_by >= 0 and ends[self.blocked_by] is None):
            return False
        latest = 0.0
        for other in waits[self.numbers[self.head]]:
            end = ends[other]
            if end is None:
                self.blocked_by = other
                return False
            latest = max(latest, end)
        self.ready, self.blocked_by = latest, -1
        return True
