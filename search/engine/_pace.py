"""How many trials are under way at a time, so that workers have stages and samplers still learn from what comes back."""

from __future__ import annotations

from edgesearch.search.crew import BoardCrew
from edgesearch.search.engine._workers import Pool

__all__ = ["Pace"]

#: Trials under way, per worker where there are several: enough that workers have stages while most trials wait for a teacher,
#: or for a board. With one worker a trial ends before the next is proposed.
_AHEAD, _AHEAD_OF_BOARDS = 8, 2
#: Where no trial will begin any more: stages that run or could, per worker, below which a trial that waited at a rung goes on;
#: and trials under way, per worker, up to which the longest counts, and no longer how many wait for a stage.
_IN_RESERVE, _FEW = 1.5, 2
#: Trials under way for each stage that runs or could, from which on too many wait: a quarter.
_CROWD = 4 / 3


class Pace:
    """For a pool of workers, which may grow and shrink, and boards that measure beside it."""

    def __init__(self, pool: Pool, boards: BoardCrew | None) -> None:
        self._pool = pool
        self._places = None if boards is None or pool.waits_for_boards else boards.places

    @property
    def most_trials(self) -> int:
        """So many trials are under way at most."""
        if self._places is not None:  # so that workers have stages while trials wait for a board
            return _AHEAD_OF_BOARDS * self._pool.slots + self._places
        return 1 if self._pool.slots == 1 else _AHEAD * self._pool.slots

    def runs_dry(self, stages: int) -> bool:
        """Whether several workers are about to have nothing to do, so many stages being under way or ready."""
        return self._pool.slots > 1 and stages < _IN_RESERVE * self._pool.slots

    def has_spare(self, stages: int, trials: int) -> bool:
        """Whether several workers may run out of stages since trials wait for each other's, a teacher say.

        stages: under way or ready; trials: under way. At a study's end each trial has a stage of its own, and none waits.
        """
        return self._pool.slots > 1 and trials > _CROWD * stages

    def are_few(self, trials: int) -> bool:
        """Whether so many trials, where none will begin any more, are about to leave some of several workers without stages."""
        return self._pool.slots > 1 and trials <= _FEW * self._pool.slots
