"""Every candidate of a space, one after the other, for when drawing at random has run out of luck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from edgesearch.spaces import Candidate, Space


class Endless(Exception):
    """The space has a range without steps, and so no end."""


@dataclass
class Path:
    """The choices that lead to one candidate, in the order in which the space asks for them.

    `indices` of the first choices may be given; later ones take the first value. It is what `Space.suggest` calls a trial.
    """

    indices: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice of this path."""
        value = choices[self._index(len(choices))]
        self.distributions[name], self.params[name] = CategoricalDistribution(tuple(choices)), value
        return value

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """The step of this path; raises Endless without steps."""
        if step is None and low < high:
            raise Endless
        distribution = FloatDistribution(low, high, step=step, log=log)
        index = self._index(1 + round((distribution.high - low) / step) if step else 1)
        value = min(low + index * (step or 0.0), distribution.high)
        self.distributions[name], self.params[name] = distribution, value
        return value

    def next(self) -> Path | None:
        """The path after this one: the last choice that has another value takes it, those behind it start anew."""
        for depth in reversed(range(len(self.sizes))):
            if self.indices[depth] + 1 < self.sizes[depth]:
                return Path([*self.indices[:depth], self.indices[depth] + 1])
        return None

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
    path: Path | None = Path()
    while path is not None:
        yield space.suggest(path), path
        path = path.next()
