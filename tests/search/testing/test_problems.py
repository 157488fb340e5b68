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
    rng, corner = np.random.default_rng(0), np.array(problem.reference)
    points = rng.uniform(size=(20_000, len(corner))) * corner
    front = problem.front(900)
    dominated = np.zeros(len(points), dtype=bool)
    for member in front:
        dominated |= (points >= member).all(axis=1)
    counted = dominated.mean() * np.prod(corner)
    assert counted == pytest.approx(problem.hypervolume, rel=0.02)


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
