"""Bytes that a step of a training takes at its peak, for any size of its batches.

A step is taken on two images and on four, of a copy of the network. Every block that it allocates has a size which is a
constant plus so much for each image: both are known from the two. With the order in which blocks come and go, which is the
same for every batch, they say what is alive at every moment of a step with any number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from edgesearch.objectives.training._allocations import Allocations

__all__ = ["PROBES", "Footprint"]

#: Images of the two steps. Batch-norm needs two, and so does each half of a batch.
PROBES = (2, 4)
#: Bytes of a process for a byte alive in its tensors: holes between blocks, and what kernels take for themselves. Measured, not
#: derived: between 1.1 (MobileNetV2, ResNet-56) and 2.1 (few layers in bfloat16) for convolutional networks in a process that
#: keeps what it frees, in whole blocks (glibc 2.36, benchmarks/memory.py); with this one errors of a whole process are about as
#: large on both sides.
_HOLES = 1.35


class Footprint:
    """What `work` allocates, given images of each of two numbers.

    work: given a number of images, prepares and returns the work; `known` are tensors that are there before it.
    """

    def __init__(self, work: Callable[[int], Callable[[], object]], known: Callable[[], Sequence[Tensor]]) -> None:
        runs = [_events(work(images), known) for images in PROBES]
        self._events = _affine(*runs)

    def peak(self, images: int, *, holes: bool = True) -> int:
        """Bytes at the peak with so many images; `holes`: in a heap, which a GPU's allocator is not."""
        alive: dict[int, int] = {}
        now = most = 0
        for number, size in self._events:
            if size is None:
                now -= alive.pop(number)
            else:
                alive[number] = max(0, round(size[0] + size[1] * images))
                now += alive[number]
            most = max(most, now)
        return int(_HOLES * most) if holes else most


def _events(work: Callable[[], object], known: Callable[[], Sequence[Tensor]]) -> list[tuple[int, int | None]]:
    with Allocations(known()) as seen:
        work()
    return list(seen.events)


def _affine(
    few: Sequence[tuple[int, int | None]], more: Sequence[tuple[int, int | None]]
) -> list[tuple[int, tuple[float, float] | None]]:
    """Each block's bytes as a constant and a part for each image. Of runs that are unlike, the second's by image."""
    if [(number, size is None) for number, size in few] != [(number, size is None) for number, size in more]:
        return [(number, None if size is None else (0.0, size / PROBES[1])) for number, size in more]
    events: list[tuple[int, tuple[float, float] | None]] = []
    for (number, size), (_, other) in zip(few, more, strict=True):
        if size is None or other is None:
            events.append((number, None))
        else:
            each = (other - size) / (PROBES[1] - PROBES[0])
            events.append((number, (size - each * PROBES[0], each)))
    return events
