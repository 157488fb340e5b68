"""Which board is next, and when one is out: by a clock that the test turns."""

from __future__ import annotations

import pytest
from _clock import Clock

from edgesearch.search.crew._allocation import Allocation, BoardRules, State

RULES = BoardRules(check_s=10.0, longest_check_s=40.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def boards(clock: Clock, *names: str, hooks: tuple[str, ...] = ()) -> Allocation:
    return Allocation(names, hooks=hooks, rules=RULES, clock=clock)


def given(allocation: Allocation, key: str, avoid: tuple[str, ...] = ()) -> str | None:
    name = allocation.choose(avoid)
    if name is not None:
        allocation.begin(name, key)
    return name


def test_boards_share_the_work_and_none_has_more_than_two_jobs(clock: Clock) -> None:
    pool = boards(clock, "a", "b")
    assert [given(pool, str(i)) for i in range(5)] == ["a", "b", "a", "b", None]
    pool.succeeded("b", "1")
    assert given(pool, "5") == "b"


def test_of_idle_boards_the_one_that_served_least_is_next(clock: Clock) -> None:
    pool = boards(clock, "a", "b")
    assert given(pool, "0") == "a"
    pool.succeeded("a", "0")
    assert given(pool, "1") == "b"


def test_a_stage_avoids_the_board_that_lost_it_while_there_is_another(clock: Clock) -> None:
    pool = boards(clock, "a", "b")
    assert given(pool, "0", avoid=("a",)) == "b"
    assert given(pool, "1", avoid=("a", "b")) == "a"


def test_a_lost_job_is_followed_by_a_check_before_the_next_job(clock: Clock) -> None:
    pool = boards(clock, "a")
    given(pool, "0")
    pool.lost("a", "0", "it does not answer")
    assert pool.choose() is None
    assert pool.due() == [("a", "check")]
    assert pool.due() == []  # it is under check
    assert pool.checked("a", None) is State.READY
    assert pool.choose() == "a"
    assert pool.summary()["a"] == {"state": "ready", "served": 0, "lost": 1}


def test_the_power_is_cut_once_then_the_board_is_out_with_its_reason(clock: Clock) -> None:
    pool = boards(clock, "a", "b", hooks=("a",))
    given(pool, "0")
    pool.lost("a", "0", "it does not answer")
    steps = []
    for problem in ("still silent", "silent after its power came back"):
        steps += pool.due()
        pool.checked("a", problem)
    assert steps == [("a", "check"), ("a", "power cycle")]
    assert pool.quarantined() == {"a": "silent after its power came back"}
    assert not pool.all_out
    assert given(pool, "1") == "b"  # others go on


def test_the_power_is_not_cut_where_that_would_not_help(clock: Clock) -> None:
    pool = boards(clock, "a", hooks=("a",))
    pool.lost("a", "0", "another program has it")
    pool.due()
    assert pool.checked("a", "another program has it", keeps_power=True) is State.QUARANTINE
    clock.now = 10.0
    assert pool.due() == [("a", "check")]


def test_a_board_without_a_hook_is_out_after_one_check(clock: Clock) -> None:
    pool = boards(clock, "a")
    pool.lost("a", "0", "lost")
    pool.due()
    assert pool.checked("a", "silent") is State.QUARANTINE


def test_a_board_that_is_out_is_looked_at_now_and_then_and_comes_back(clock: Clock) -> None:
    pool = boards(clock, "a", hooks=("a",))
    pool.lost("a", "0", "lost")
    for _ in range(2):
        pool.due()
        pool.checked("a", "silent")
    looks = []
    for second in range(1, 200):
        clock.now = float(second)
        if found := pool.due():
            assert found == [("a", "check")]  # its power is not cut again
            looks.append(second)
            pool.checked("a", "silent")
    assert looks == [10, 30, 70, 110, 150, 190]  # 10, 20, 40, 40, ... seconds apart
    clock.now = 230.0
    pool.due()
    assert pool.checked("a", None) is State.READY
    assert pool.choose() == "a"


def test_success_on_a_board_lets_its_power_be_cut_again_another_time(clock: Clock) -> None:
    pool = boards(clock, "a", hooks=("a",))

    def fail() -> list[tuple[str, str]]:
        pool.lost("a", "0", "lost")
        steps = []
        for problem in ("silent", None):
            steps += pool.due()
            pool.checked("a", problem)
        return list(steps)

    assert fail() == [("a", "check"), ("a", "power cycle")]
    pool.lost("a", "1", "lost")  # and again, without a job done in between
    assert pool.due() == [("a", "check")]
    assert pool.checked("a", "silent") is State.QUARANTINE
    clock.now = 10.0
    pool.due()
    pool.checked("a", None)
    given(pool, "2")
    pool.succeeded("a", "2")
    assert fail() == [("a", "check"), ("a", "power cycle")]


def test_how_long_all_boards_are_out_is_counted_from_the_last_one(clock: Clock) -> None:
    pool = boards(clock, "a", "b")
    for second, name in ((1.0, "a"), (5.0, "b")):
        clock.now = second
        pool.lost(name, name, "lost")
        pool.due()
        pool.checked(name, "silent")
    clock.now = 8.0
    assert pool.all_out
    assert pool.out_for == 3.0
    clock.now = 20.0
    pool.due()
    pool.checked("a", None)
    assert not pool.all_out
    assert pool.out_for == 0.0


def test_a_job_that_says_nothing_of_the_board_frees_its_place(clock: Clock) -> None:
    pool = boards(clock, "a")
    for key in ("0", "1"):
        given(pool, key)
    pool.dropped("a", "0")
    assert given(pool, "2") == "a"
