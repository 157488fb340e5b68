"""What is said of each problem's front, checked by counting, and that a search finds it."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from edgesearch.testing import PROBLEMS, Problem, search_problem

pytestmark = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


class _Uniform:
    """Answers at random, or with the best that a parameter of the distance has."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str:
        return str(self._rng.choice(choices))


def test_the_hypervolume_is_what_counting_random_points_gives(problem: Problem) -> None:
    corner = np.array(problem.reference)
    each = (np.arange(200) + 0.5) / 200 if len(corner) == 2 else (np.arange(35) + 0.5) / 35
    points = np.stack([axis.ravel() for axis in np.meshgrid(*[each] * len(corner))], axis=1) * corner
    front = problem.front(400)
    dominated = np.zeros(len(points), dtype=bool)
    for member in front:
        dominated |= (points >= member).all(axis=1)
    counted = dominated.mean() * np.prod(corner)
    assert counted == pytest.approx(problem.hypervolume, rel=0.04)


def test_no_trial_lies_below_the_front(problem: Problem) -> None:
    front = problem.front(2500)
    for seed in range(300):
        values, constraints = problem.evaluate(_Uniform(seed))
        if all(amount <= 0 for amount in constraints.values()):
            assert not (np.array(values) < front - 0.02).all(axis=1).any()


def test_members_of_the_front_do_not_beat_each_other(problem: Problem) -> None:
    front = problem.front(100)
    for member in front:
        beats = (member <= front + 1e-12).all(axis=1) & (member < front - 1e-9).any(axis=1)
        assert not beats.any()


def test_a_search_finds_more_of_it_with_more_trials(problem: Problem) -> None:
    progress = search_problem(problem, _random, trials=150, seed=1)
    assert list(progress.shares) == sorted(progress.shares)
    assert progress.shares[10] < progress.shares[-1]
    assert 0.3 < progress.shares[-1] < 1.0


def test_a_sampler_that_learns_finds_more_than_chance(problem: Problem) -> None:
    random, learned = (
        np.mean([search_problem(problem, make, trials=50, seed=seed).shares[-1] for seed in range(1)])
        for make in (_random, _tpe)
    )
    assert learned > random


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=10)
