"""How the trials of a study ended: in this run, and in the runs before."""

from __future__ import annotations

from collections import Counter

from optuna.trial import TrialState

from edgesearch.errors import StudyError

__all__ = ["Ends"]

#: A study of which nothing but failures is known after so many in one run stops, since the reason is then not the candidates'.
_HOPELESS = 8


class Ends:
    """Counts trials by the states that they ended in."""

    def __init__(self) -> None:
        self._before: Counter[TrialState] = Counter()
        self._now: Counter[TrialState] = Counter()

    def observe(self, state: TrialState) -> None:
        """A trial ended so in an earlier run."""
        self._before[state] += 1

    def add(self, state: TrialState) -> None:
        """A trial ended so in this run."""
        self._now[state] += 1

    @property
    def total(self) -> int:
        """Trials of the study that ended."""
        return self._before.total() + self._now.total()

    def in_this_run(self, state: TrialState) -> int:
        """Trials that this run ended so."""
        return self._now[state]

    def check_hope(self, reason: str) -> None:
        """Raises StudyError where many trials failed in this run, the last for this reason, and none of the study did not.

        One that was stopped at a rung, or ruled out by its network, did not fail. Failures of earlier runs alone stop nothing:
        what they failed of may have been mended since.
        """
        failed = self._before[TrialState.FAIL] + self._now[TrialState.FAIL]
        if self._now[TrialState.FAIL] >= _HOPELESS and failed == self.total:
            raise StudyError(
                f"the first {failed} trials all failed, the last with: {reason}; nothing is lost, mend it and go on"
            )
