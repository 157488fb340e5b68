"""Ways through a space without a sampler: every candidate one after the other, random ones, and those of earlier trials."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from edgesearch.spaces import Candidate, Space, Suggester, next_places

T = TypeVar("T")


class Endless(Exception):
    """The space has a range without steps, and so no end."""


@dataclass
class Path:
    """The choices that lead to one candidate, in the order in which the space asks for them.

    `indices` of the first choices may be given; later ones take the first value. It is what `Space.suggest` calls a trial.
    Ranges without steps have `grid` values, evenly spaced; 0: none.
    """

    indices: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    grid: int = 0

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice of this path."""
        value = choices[self._index(len(choices))]
        self.distributions[name], self.params[name] = CategoricalDistribution(tuple(choices)), value
        return value

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """The step of this path; raises Endless without steps and a grid."""
        distribution = FloatDistribution(low, high, step=step, log=log)
        if step is None and low < high:
            if self.grid < 2:
                raise Endless
            share = self._index(self.grid) / (self.grid - 1)
            value = low * (high / low) ** share if log else low + (high - low) * share
        else:
            index = self._index(1 + round((distribution.high - low) / step) if step else 1)
            value = low + index * (step or 0.0)
        value = min(value, distribution.high)
        self.distributions[name], self.params[name] = distribution, value
        return value

    def next(self) -> Path | None:
        """The path after this one: the last choice that has another value takes it, those behind it start anew."""
        places = next_places(self.indices, self.sizes)
        return None if places is None else Path(places, grid=self.grid)

    def _index(self, size: int) -> int:
        depth = len(self.sizes)
        self.sizes.append(size)
        if depth == len(self.indices):
            self.indices.append(0)
        return self.indices[depth]


def walk(space: Space) -> Iterator[tuple[Candidate, Path]]:
    """All candidates of the space, some more than once where different choices mean the same network.

    Raises Endless when the space has a range without steps, perhaps only after some candidates.
    """
    return walk_choices(space.suggest)


def walk_choices(suggest: Callable[[Suggester], T], *, grid: int = 0) -> Iterator[tuple[T, Path]]:
    """All that `suggest` makes of choices, and the choices; ranges without steps have `grid` values, or raise Endless."""
    path: Path | None = Path(grid=grid)
    while path is not None:
        yield suggest(path), path
        path = path.next()


class Dice:
    """Answers at random by a seed, every choice and every step of a range alike, and keeps the answers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        self.distributions[name] = CategoricalDistribution(tuple(choices))
        self.params[name] = self._random.choice(choices)
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """A step of the range, or any number in it."""
        distribution = FloatDistribution(low, high, step=step, log=log)
        if step is not None:
            value = low + step * self._random.randint(0, round((distribution.high - low) / step))
        else:
            value = math.exp(self._random.uniform(math.log(low), math.log(high))) if log else self._random.uniform(low, high)
        value = min(max(value, low), distribution.high)
        self.distributions[name], self.params[name] = distribution, value
        return value


@dataclass
class Recorded:
    """Answers with the parameters of an earlier trial, and keeps the names of those that it was asked for."""

    params: Mapping[str, Any]
    asked: list[str] = field(default_factory=list)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The earlier answer; raises KeyError where there is none."""
        self.asked.append(name)
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """The earlier answer; raises KeyError where there is none."""
        self.asked.append(name)
        return float(self.params[name])
