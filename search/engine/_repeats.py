"""Networks that a study has: a candidate that is one of them, made in another way, is not tried again."""

from __future__ import annotations

from collections.abc import Callable

from edgesearch.spaces import Candidate

__all__ = ["Networks"]

#: Repeats of a network that are told one by one.
_TOLD = 3


class Networks:
    """Knows networks by the estimator's key, and counts repeats on from `repeats`. `note` is told the first few."""

    def __init__(self, repeats: int, *, note: Callable[[str], None]) -> None:
        self.repeats, self._note = repeats, note
        self._names: dict[str, str] = {}  # key of a network -> the trial that has it
        self._told = 0
        self._narrowest: set[str] = set()  # their keys

    def add(self, key: str, number: int, candidate: Candidate) -> None:
        """Trial `number` has this network; the first that has it is named."""
        self._names.setdefault(key, f"trial {number}, {candidate}")

    def forget(self, key: str) -> None:
        """A trial may have this network again."""
        self._names.pop(key, None)

    def knows(self, key: str) -> bool:
        """Whether a trial has this network; nothing is counted."""
        return key in self._names

    def reached(self, key: str, candidate: Candidate, reach: float) -> None:
        """The network is the narrowest of its student, since the candidate asks for more than the share `reach`."""
        if key in self._narrowest or len(self._narrowest) >= _TOLD:
            return
        self._narrowest.add(key)
        of = "the DPU's time" if candidate.pruning.target == "fps" else "its MACs"
        finer = "; a smaller granularity allows more" if candidate.pruning.granularity != 1 else ""
        self._note(
            f"out of reach: {candidate} cannot lose {candidate.pruning.ratio:.0%}, but {reach:.1%} of {of}{finer}. Every "
            "greater ratio is the same network, and is tried once"
        )

    def has(self, key: str, candidate: Candidate) -> bool:
        """Whether a trial has the candidate's network: a repeat, then."""
        known = self._names.get(key)
        if known is None:
            return False
        self.repeats += 1
        self._told += 1
        if self._told <= _TOLD:
            self._note(f"not tried again: {candidate} is layer by layer the network of {known}; the study goes on without it")
        return True
