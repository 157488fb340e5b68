"""The policy alone: ranks as the definition has them, decisions that do not depend on the order of the news."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.search.rungs._rungs import Entrant, Rungs
from edgesearch.search.study import Objective

OBJECTIVES = (Objective("accuracy"), Objective("fps"))


def entrant(number: int, fps: float, **more: Any) -> Entrant:
    known = {"fps": fps}
    return Entrant(
        **{
            "student": f"s{number}",
            "method": "none ptq",
            "quantized": "pruned ptq",
            "ratio": 0.0,
            "known": known,
            "favourable": known,
            **more,
        }
    )


def policy(**more: Any) -> Rungs:
    return Rungs(OBJECTIVES, rungs=2, **more)


def finish(rungs: Rungs, number: int, fps: float, accuracies: tuple[float, float], final: float, **more: Any) -> None:
    rungs.enter(number, entrant(number, fps, **more))
    for rung, accuracy in enumerate(accuracies):
        rungs.climbed(f"s{number}", rung, accuracy)
    rungs.trained(f"s{number}", final)
    rungs.finished(number, {"accuracy": final, "fps": fps}, feasible=True)


def test_a_third_of_what_reached_a_rung_goes_on_and_the_first_does_at_once() -> None:
    rungs = policy()
    verdicts = []
    for number in range(9):
        rungs.enter(number, entrant(number, 100.0))
        rungs.climbed(f"s{number}", 0, 0.5 - 0.01 * number)
        verdicts.append(rungs.verdict(number))
    assert verdicts == ["go"] + 8 * ["pause"]
    assert rungs.next(range(1, 9)) == 1  # nine reached it, three may go on: one has, this is the second
    assert rungs.next(range(2, 9)) == 2
    assert rungs.next(range(3, 9)) is None


def test_what_is_slower_and_more_accurate_goes_on_beside_what_is_faster() -> None:
    rungs = policy()
    for number, (accuracy, fps) in enumerate(
        [(0.5, 100.0), (0.45, 90.0), (0.2, 900.0), (0.44, 95.0), (0.1, 890.0), (0.4, 80.0)]
    ):
        rungs.enter(number, entrant(number, fps))
        rungs.climbed(f"s{number}", 0, accuracy)
    assert [n for n in range(6) if rungs.verdict(n) == "go"] == [0, 2]


def known_study(noise: float = 0.0, **more: Any) -> Rungs:
    """Trainings end half way from their second rung to perfection, wherever that was."""
    rungs = policy(**more)
    draw = random.Random(1)
    for number in range(12):
        first = 0.3 + 0.04 * number
        final = min(0.99, 0.5 + 0.5 * first + draw.uniform(-noise, noise))
        finish(rungs, number, 1000.0 - 50.0 * number, (first, first + 0.1), final)
    return rungs


def test_before_anything_is_known_nothing_is_hopeless() -> None:
    rungs = policy()
    rungs.enter(0, entrant(0, 100.0))
    rungs.climbed("s0", 0, 0.11)
    rungs.enter(1, entrant(1, 200.0))
    rungs.finished(1, {"accuracy": 0.7, "fps": 200.0}, feasible=True)
    assert rungs.hopeless([0]) == []


def test_what_is_dominated_at_its_best_is_hopeless_and_what_is_faster_is_not() -> None:
    rungs = known_study()
    for number, fps in ((20, 400.0), (21, 2000.0)):
        rungs.enter(number, entrant(number, fps))
        rungs.climbed(f"s{number}", 0, 0.32)
    assert rungs.hopeless([20, 21]) == [20]
    assert rungs.verdict(20) == "stop"
    interval = rungs.interval(20)
    assert interval.low < 0.66 < interval.high < 0.8


def test_hardly_one_in_five_of_what_is_stopped_would_have_reached_the_front() -> None:
    draw, stopped, wrongly = random.Random(5), 0, 0

    def training() -> tuple[float, float]:
        first = draw.uniform(0.3, 0.8)
        return first, min(0.99, 0.5 + 0.4 * first + draw.gauss(0.0, 0.05))

    for _ in range(60):
        rungs, best = policy(), 0.0
        for number in range(12):
            first, final = training()
            finish(rungs, number, 100.0, (first, first + 0.1), final)
            best = max(best, final)
        for number in range(20, 40):
            first, final = training()
            rungs.enter(number, entrant(number, 100.0))
            rungs.climbed(f"s{number}", 0, first)
            if rungs.hopeless([number]):
                stopped += 1
                wrongly += final > best
    assert stopped > 400
    assert 0 < wrongly < stopped / 5


def test_a_small_chance_is_enough_while_workers_have_time_to_spare() -> None:
    rungs = known_study(noise=0.1)
    rungs.enter(20, entrant(20, 5000.0))
    rungs.climbed("s20", 0, 0.5)
    _, middle, high = rungs.interval(20)
    rungs.enter(21, entrant(21, 6000.0))  # faster, and nearly as accurate as the other one can be
    rungs.finished(21, {"accuracy": 0.2 * middle + 0.8 * high, "fps": 6000.0}, feasible=True)
    assert rungs.verdict(20) == "stop"
    rungs.spare = True
    assert rungs.verdict(20) != "stop"
    assert rungs.next([20], last=True) == 20
    assert rungs.hopeless([20]) == [20]
    rungs.spare = False
    assert rungs.next([20], last=True) is None


def test_a_limit_of_the_users_stops_only_what_cannot_keep_it_at_the_end_of_its_interval() -> None:
    rungs = known_study(noise=0.1)
    rungs.enter(20, entrant(20, 5000.0))  # faster than all: on the front whatever its accuracy
    rungs.climbed("s20", 0, 0.5)
    low, middle, high = rungs.interval(20)
    for limit, is_stopped in ((0.1 * low + 0.9 * high, False), (middle, False), (high + 1e-6, True)):
        rungs = known_study(noise=0.1, min_accuracy=limit)
        rungs.enter(20, entrant(20, 5000.0))
        rungs.climbed("s20", 0, 0.5)
        assert bool(rungs.hopeless([20])) == is_stopped


def test_a_fixed_candidate_goes_on_whatever_it_does() -> None:
    rungs = known_study()
    rungs.enter(20, entrant(20, 400.0, fixed=True))
    rungs.climbed("s20", 0, 0.1)
    assert rungs.verdict(20) == "go"
    assert rungs.hopeless([20]) == []


def test_what_no_dpu_runs_stops_nothing_that_one_runs() -> None:
    rungs = policy()
    for number in range(12):
        finish(rungs, number, 1000.0, (0.3 + 0.03 * number, 0.4 + 0.03 * number), 0.6 + 0.03 * number, deployable=False)
    for number, deployable in ((20, True), (21, False)):
        rungs.enter(number, entrant(number, 400.0, deployable=deployable))
        rungs.climbed(f"s{number}", 0, 0.3)
    assert rungs.hopeless([20, 21]) == [21]


def test_what_cannot_reach_the_least_accuracy_is_hopeless_and_ranks_last() -> None:
    rungs = known_study(min_accuracy=0.8)
    for number, accuracy in ((20, 0.31), (21, 0.7)):
        rungs.enter(number, entrant(number, 5000.0))
        rungs.climbed(f"s{number}", 0, accuracy)
    assert rungs.hopeless([20, 21]) == [20]
    assert rungs.verdict(21) == "go"


def test_what_pruning_costs_is_learnt_for_each_method() -> None:
    rungs = known_study()
    for number in range(30, 38):
        ratio = 0.1 * (number - 29)
        rungs.enter(number, entrant(number, 100.0, method="harsh", ratio=ratio, student="s11"))
        rungs.finished(number, {"accuracy": 0.86 - 0.5 * ratio, "fps": 100.0}, feasible=True)
    for number, method in ((50, "harsh"), (51, "new")):
        rungs.enter(number, entrant(number, 100.0, method=method, ratio=0.6, student="s11"))
    harsh, new = rungs.interval(50), rungs.interval(51)
    assert harsh.middle == pytest.approx(0.56, abs=0.06)
    assert harsh.high - harsh.low < new.high - new.low


def test_a_pruned_networks_accuracy_tells_more_than_its_students() -> None:
    rungs = known_study()
    for number in range(30, 38):
        ratio = 0.1 * (number - 29)
        rungs.enter(number, entrant(number, 100.0, method="harsh", ratio=ratio, student="s11"))
        rungs.pruned(number, 0.87 - 0.5 * ratio)
        rungs.finished(number, {"accuracy": 0.86 - 0.5 * ratio, "fps": 100.0}, feasible=True)
    for number in (50, 51, 52):
        rungs.enter(number, entrant(number, 100.0, method="harsh", ratio=0.6, student="s11"))
    rungs.pruned(51, 0.8)  # lucky
    rungs.pruned(52, 0.3)
    before, lucky, poor = (rungs.interval(number) for number in (50, 51, 52))
    assert lucky.middle == pytest.approx(0.79, abs=0.01)
    assert poor.middle == pytest.approx(0.29, abs=0.01)
    assert lucky.high - lucky.low < 0.5 * (before.high - before.low)


def test_the_speed_of_pruned_networks_is_learnt_where_it_is_not_what_was_expected() -> None:
    rungs = known_study()
    for number in range(30, 38):
        rungs.enter(number, entrant(number, 100.0, method="one_step", ratio=0.5, student="s11"))
        rungs.finished(number, {"accuracy": 0.7, "fps": 131.0}, feasible=True)
    rungs.enter(50, entrant(50, 200.0, method="one_step", ratio=0.5, student="s11"))
    assert rungs.expected(50)["fps"] == pytest.approx(262.0, rel=0.03)
    rungs.enter(51, entrant(51, 200.0, student="s11"))
    assert rungs.expected(51)["fps"] == 200.0


NEWS = st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(50, 1000), st.integers(0, 3)), min_size=2, max_size=14)


@settings(deadline=None)
@given(NEWS, st.randoms(use_true_random=False))
def test_decisions_do_not_depend_on_the_order_in_which_trials_ended(
    trials: list[tuple[float, float, int]], order: random.Random
) -> None:
    """state 0: at the first rung, 1: at the second, 2: finished, 3: finished, and breaks a constraint."""

    def told(numbers: list[int]) -> Rungs:
        rungs = policy(min_accuracy=0.2)
        for number in numbers:
            accuracy, fps, state = trials[number]
            rungs.enter(number, entrant(number, fps))
            rungs.climbed(f"s{number}", 0, accuracy)
            if state > 0:
                rungs.climbed(f"s{number}", 1, (1 + accuracy) / 2)
            if state > 1:
                final = (2 + accuracy) / 3
                rungs.trained(f"s{number}", final)
                rungs.finished(number, {"accuracy": final, "fps": fps}, feasible=state == 2)
        return rungs

    numbers = list(range(len(trials)))
    shuffled = order.sample(numbers, len(numbers))
    one, other = told(numbers), told(shuffled)
    paused = [n for n in numbers if trials[n][2] < 2]
    assert [one.verdict(n) for n in paused] == [other.verdict(n) for n in paused]
    for last in (False, True):
        assert one.next(paused, last=last) == other.next(paused, last=last)
    assert [one.interval(n) for n in numbers] == [other.interval(n) for n in numbers]


@settings(deadline=None)
@given(NEWS)
def test_what_is_asked_for_last_is_everything_that_is_not_hopeless(trials: list[tuple[float, float, int]]) -> None:
    rungs = known_study(noise=0.05)
    for number, (accuracy, fps, _) in enumerate(trials, start=100):
        rungs.enter(number, entrant(number, fps))
        rungs.climbed(f"s{number}", 0, accuracy)
    paused = set(range(100, 100 + len(trials)))
    hopeless = set(rungs.hopeless(paused))
    taken = set()
    while (number := rungs.next(paused - taken, last=True)) is not None:
        taken.add(number)
    assert taken == paused - hopeless


@settings(deadline=None)
@given(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=2), st.floats(0.0, 0.1))
def test_more_at_a_rung_is_never_less_in_the_end(accuracies: list[float], noise: float) -> None:
    rungs = known_study(noise=noise)
    for number, accuracy in enumerate(sorted(accuracies), start=100):
        rungs.enter(number, entrant(number, 100.0))
        rungs.climbed(f"s{number}", 0, accuracy)
    assert rungs.interval(100).middle <= rungs.interval(101).middle + 1e-12


def test_one_odd_training_does_not_move_what_is_expected_of_the_others() -> None:
    clean, odd = known_study(), known_study()
    finish(odd, 60, 100.0, (0.8, 0.9), 0.12)  # it diverged late
    for rungs in (clean, odd):
        rungs.enter(70, entrant(70, 100.0))
        rungs.climbed("s70", 0, 0.5)
    assert odd.interval(70).middle == pytest.approx(clean.interval(70).middle, abs=0.03)
