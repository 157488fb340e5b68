"""Problems whose best answers are known: several objectives, all to be made small, with fronts and hypervolumes in closed form.

A sampler is tried on them in seconds, and how far it came is told as a share of what there is to find. Every problem has a
distance d >= 0 to its front, which all parameters decide but those of the front's shape, and objectives that are (1 + d) times
a point of the front; so nothing lies below the front, and d = 0 gives all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from edgesearch.search.study import non_dominated, quiet_optuna, volume

__all__ = ["PROBLEMS", "Arc", "Fenced", "Forked", "Problem", "Sphere", "search_problem"]

#: Where all objectives' reference lies.
_CORNER = 1.2
#: What the objectives of `Fenced` may be at most, and where the other one lies on the circle then.
_FENCE = 0.9
_MEETS = math.sqrt(1 - _FENCE**2)


class Trial(Protocol):
    """What a problem asks for its parameters: an Optuna trial, or anything that answers like one."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """A number in a range."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of some words."""


class Problem(Protocol):
    """Objectives to be made small, and what is known of them.

    hypervolume: of the whole front, up to `reference`. constraints: what each trial exceeds its limit by, at most zero when it
    is kept; empty where there is none.
    """

    name: ClassVar[str]
    reference: ClassVar[tuple[float, ...]]
    hypervolume: ClassVar[float]

    def evaluate(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, float]]:
        """Objectives and constraints of one trial."""

    def front(self, points: int) -> NDArray[np.float64]:
        """Points of the front (about `points`, objectives), spread over it."""


class Arc:
    """Two objectives; the front is a quarter of a circle that bulges towards the best: no weighted sum finds its middle."""

    name: ClassVar[str] = "arc"
    reference: ClassVar[tuple[float, ...]] = (_CORNER, _CORNER)
    hypervolume: ClassVar[float] = _CORNER**2 - math.pi / 4

    def evaluate(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, float]]:
        """The angle, and three parameters of which each has its best value at 0.3."""
        angle = trial.suggest_float("angle", 0.0, 1.0) * math.pi / 2
        scale = 1 + _distance(trial, 0.3)
        return (scale * math.sin(angle), scale * math.cos(angle)), {}

    def front(self, points: int) -> NDArray[np.float64]:
        """Points of the quarter of a circle, at equal angles."""
        angles = np.linspace(0, math.pi / 2, points)
        return np.stack([np.sin(angles), np.cos(angles)], axis=1)


class Fenced:
    """As `Arc`, with a constraint that only the middle of the front keeps: both objectives are to be at most 0.9."""

    name: ClassVar[str] = "fenced"
    reference: ClassVar[tuple[float, ...]] = (_FENCE, _FENCE)
    # Of the square below the fence, what lies beyond the circle, which meets the fence at _MEETS.
    hypervolume: ClassVar[float] = _FENCE * (_FENCE - _MEETS) - (math.asin(_FENCE) - math.asin(_MEETS)) / 2
    _arc: ClassVar[Arc] = Arc()

    def evaluate(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, float]]:
        """As `Arc`, and by how much the larger objective exceeds 0.9."""
        values, _ = self._arc.evaluate(trial)
        return values, {"most": max(values) - _FENCE}

    def front(self, points: int) -> NDArray[np.float64]:
        """Points of the part of the circle that keeps the constraint."""
        angles = np.linspace(math.asin(_MEETS), math.asin(_FENCE), points)
        return np.stack([np.sin(angles), np.cos(angles)], axis=1)


class Forked:
    """Two objectives and conditional parameters: what "kind" says decides which other parameters there are.

    "steep" gives the front's half with a small second objective, "flat" that with a small first one; "poor" gives nothing of
    it. The front is the straight line from (0, 1) to (1, 0).
    """

    name: ClassVar[str] = "forked"
    reference: ClassVar[tuple[float, ...]] = (_CORNER, _CORNER)
    hypervolume: ClassVar[float] = _CORNER**2 - 0.5
    _KINDS: ClassVar[tuple[str, ...]] = ("steep", "flat", "poor")

    def evaluate(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, float]]:
        """The kind, and its own parameters."""
        kind = trial.suggest_categorical("kind", self._KINDS)
        place = trial.suggest_float(f"{kind}.place", 0.0, 1.0)
        if kind == "poor":
            return (0.7 + 0.3 * place, 1.0 - 0.3 * place), {}
        first = place / 2 + (0.5 if kind == "steep" else 0.0)
        scale = 1 + (trial.suggest_float(f"{kind}.error", -1.0, 1.0) - 0.4) ** 2
        return (scale * first, scale * (1 - first)), {}

    def front(self, points: int) -> NDArray[np.float64]:
        """Points of the line."""
        first = np.linspace(0, 1, points)
        return np.stack([first, 1 - first], axis=1)


class Sphere:
    """Three objectives; the front is an eighth of a sphere."""

    name: ClassVar[str] = "sphere"
    reference: ClassVar[tuple[float, ...]] = (_CORNER, _CORNER, _CORNER)
    hypervolume: ClassVar[float] = _CORNER**3 - math.pi / 6

    def evaluate(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, float]]:
        """Two angles, and three parameters of which each has its best value at 0.6."""
        first, second = (trial.suggest_float(name, 0.0, 1.0) * math.pi / 2 for name in ("first", "second"))
        scale = 1 + _distance(trial, 0.6)
        across = scale * math.cos(first)
        return (across * math.cos(second), across * math.sin(second), scale * math.sin(first)), {}

    def front(self, points: int) -> NDArray[np.float64]:
        """Points at equal angles, `points` rounded down to a square number."""
        angles = np.linspace(0, math.pi / 2, max(2, math.isqrt(points)))
        first, second = (grid.ravel() for grid in np.meshgrid(angles, angles))
        return np.stack([np.cos(first) * np.cos(second), np.cos(first) * np.sin(second), np.sin(first)], axis=1)


#: All of them.
PROBLEMS: tuple[Problem, ...] = (Arc(), Fenced(), Forked(), Sphere())


@dataclass(frozen=True)
class Progress:
    """After each trial: hypervolume of what was found, as a share of the whole front's."""

    shares: tuple[float, ...]
    #: Objectives of the trials that no other beats.
    front: tuple[tuple[float, ...], ...]


def search_problem(problem: Problem, make: Callable[[int], BaseSampler], *, trials: int = 100, seed: int = 0) -> Progress:
    """Let a sampler, made from `seed`, search a problem; what breaks a constraint is told to it, and counts nothing."""
    import optuna

    found: list[tuple[float, ...]] = []
    shares: list[float] = []
    reference = np.array(problem.reference)
    with quiet_optuna():
        study = optuna.create_study(directions=["minimize"] * len(problem.reference), sampler=make(seed))
        for _ in range(trials):
            trial = study.ask()
            values, constraints = problem.evaluate(trial)
            for name, amount in constraints.items():
                trial.set_constraint(name, amount)
            study.tell(trial, values)
            if all(amount <= 0 for amount in constraints.values()):
                points = np.array([*found, values])
                found = [tuple(points[row].tolist()) for row in non_dominated(points)]
            shares.append(volume(np.array(found), reference) / problem.hypervolume if found else 0.0)
    return Progress(tuple(shares), tuple(found))


def _distance(trial: Trial, best: float) -> float:
    """Of three parameters to their best values: the mean of the squares."""
    return sum((trial.suggest_float(f"x{number}", 0.0, 1.0) - best) ** 2 for number in range(3)) / 3
