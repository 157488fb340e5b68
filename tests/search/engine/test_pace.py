"""How many trials are under way, and when workers are about to wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgesearch.search.engine._pace import Pace


def pool(slots: int, *, waits_for_boards: bool = False) -> Any:
    return SimpleNamespace(slots=slots, waits_for_boards=waits_for_boards)


def test_one_worker_ends_a_trial_before_the_next_begins() -> None:
    pace = Pace(pool(1), None)
    assert pace.most_trials == 1
    assert not pace.runs_dry(0)
    assert not pace.are_few(1)


def test_several_workers_have_trials_ahead_also_once_a_cluster_grew() -> None:
    workers = pool(2)
    pace = Pace(workers, None)
    before = pace.most_trials
    workers.slots = 4
    assert before > 2
    assert pace.most_trials == 2 * before


@pytest.mark.parametrize("waits", [False, True])
def test_trials_that_wait_for_a_board_are_no_work_for_trainers_that_do_not_wait_with_them(waits: bool) -> None:
    with_boards = Pace(pool(2, waits_for_boards=waits), SimpleNamespace(places=3))  # type: ignore[arg-type]
    alone = Pace(pool(2), None)
    assert (with_boards.most_trials == alone.most_trials) == waits


def test_workers_run_dry_before_the_last_stage_has_a_worker() -> None:
    pace = Pace(pool(4), None)
    assert pace.runs_dry(4)
    assert not pace.runs_dry(8)


def test_few_trials_are_those_that_leave_workers_alone_one_by_one() -> None:
    pace = Pace(pool(4), None)
    assert pace.are_few(4)
    assert not pace.are_few(40)


def test_workers_have_time_to_spare_while_trials_wait_for_each_others_stages() -> None:
    pace = Pace(pool(8), None)
    assert pace.has_spare(stages=20, trials=40)
    assert not pace.has_spare(stages=40, trials=40)
    assert not pace.has_spare(stages=3, trials=3)  # the last ones
    assert not Pace(pool(1), None).has_spare(stages=0, trials=1)
