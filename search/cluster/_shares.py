"""Fair shares of a Ray cluster between the studies that run on it at the same time.

Every study tells a book, an actor on the cluster, which part of the cluster it could use, and is told what the others said.
From that each computes its own share: the cluster is divided evenly, and what one does not need goes to the others. No stage is
stopped for it: a study above its share starts no other until it is within it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

__all__ = ["ShareBook", "Shares", "fair", "slots"]

#: Seconds after which a study that says nothing has no share any more.
_SILENT_S = 30.0
#: Seconds for the book's first answer, for which its process is started.
_FIRST_S = 30.0
#: A part of a cluster is no less than a rounding error.
_ROUNDING = 1e-6
#: The book's name on the cluster. Another number where it is told other things.
_NAME, _NAMESPACE = "shares-1", "edgesearch"


def fair(wants: Mapping[str, float]) -> dict[str, float]:
    """The part of a whole that each gets: all the same, but nobody more than it wants (0..1), which is max-min fairness."""
    parts: dict[str, float] = {}
    left = 1.0
    for number, name in enumerate(sorted(wants, key=wants.__getitem__)):
        parts[name] = min(wants[name], left / (len(wants) - number))
        left -= parts[name]
    return {name: parts[name] for name in wants}


def slots(places: int, wants: Mapping[str, float], own: str) -> int:
    """How many of `places` stages `own` may run, at least one; the slots of studies with equal stages add up to all places.

    `wants` are in the order in which the studies came.
    """
    borders = [int(places * end + _ROUNDING) for end in accumulate(fair(wants).values(), initial=0.0)]
    number = list(wants).index(own)
    return max(1, borders[number + 1] - borders[number])


class ShareBook:
    """What the studies of a cluster want. It runs as an actor of Ray. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wants: dict[str, tuple[float, float]] = {}  # study -> what it wants, and when it said so

    def tell(self, study: str, want: float) -> dict[str, float]:
        """Note what a study wants; the wants of all that are there, in the order in which they came."""
        now = self._clock()
        self._wants[study] = want, now
        self._wants = {name: entry for name, entry in self._wants.items() if now - entry[1] <= _SILENT_S}
        return {name: wanted for name, (wanted, _) in self._wants.items()}

    def leave(self, study: str) -> bool:
        """Forget a study; whether none is left."""
        self._wants.pop(study, None)
        return not self._wants


class Shares:
    """A driver's entry in the book of the cluster that `ray` is connected to. Without the book, all is its own."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._own = ray, uuid.uuid4().hex
        self._wants: Mapping[str, float] = {self._own: 1.0}
        self._book: Any = None
        self._answer: Any = None
        self._tell(1.0)
        self._read(_FIRST_S)

    @property
    def is_alone(self) -> bool:
        """Whether no other study is known to run on the cluster."""
        return len(self._wants) == 1

    def slots(self, places: int) -> int:
        """How many of the cluster's places this study may use."""
        return slots(places, self._wants, self._own)

    def update(self, want: float) -> None:
        """Tell the book what part of the cluster could be used, and take its last answer, where it is there. Never waits."""
        if self._read(0.0):
            self._tell(want)

    def leave(self) -> None:
        """Give the share back; the last study takes the book along."""
        with suppress(self._ray.exceptions.RayError):
            if self._book is not None and self._ray.get(self._book.leave.remote(self._own), timeout=3.0):
                self._ray.kill(self._book)

    def _tell(self, want: float) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):  # ValueError: another study takes the book away just now
            if self._book is None:
                options = {"num_cpus": 0, "name": _NAME, "namespace": _NAMESPACE, "lifetime": "detached", "get_if_exists": True}
                self._book = self._ray.remote(**options)(ShareBook).remote()
            self._answer = self._book.tell.remote(self._own, want)

    def _read(self, seconds: float) -> bool:
        """Whether the book may be told something: it owes no answer."""
        if self._answer is None:
            return True
        if not self._ray.wait([self._answer], timeout=seconds)[0]:
            return False
        try:
            self._wants = self._ray.get(self._answer)
        except self._ray.exceptions.RayError:  # it died with its node, or with the study that took it away: another is begun
            self._book = None
        self._answer = None
        return True
