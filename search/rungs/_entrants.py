"""What is known of trials on their rungs, as columns: a question about thousands of them takes a few array operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesearch.search.rungs._forecast import Forecast

__all__ = ["Entrant", "Entrants", "Sources"]

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Entrant:
    """A trial as it begins.

    student: what all trials with this student training have in common. method: how it is pruned and quantized; quantized: what
    of this follows pruning; ratio: the share that is pruned. known: its metrics before training, favourable: those at the end
    of their interval that suits it best. fixed: it is never stopped.
    """

    student: str
    method: str
    quantized: str
    ratio: float
    known: Mapping[str, float]
    favourable: Mapping[str, float]
    deployable: bool = True
    fixed: bool = False


class Sources(NamedTuple):
    """What candidates (rows) are foretold from.

    rungs, accuracies: the last that is known, the number of rungs standing for the trained student and what follows it.
    methods, ratios: of all that is still to come, as `Forecast` numbers methods. pruning, shares: how the network is pruned
    and how much of it, whether that was done or not.
    """

    rungs: Places
    accuracies: Array
    methods: Places
    ratios: Array
    pruning: Places
    shares: Array


class Entrants:
    """Trials by their numbers, and the trainings of their students. `names` are the objectives, `rungs` those of a training."""

    def __init__(self, names: Sequence[str], rungs: int, forecast: Forecast) -> None:
        self._names, self._rungs, self._forecast = tuple(names), rungs, forecast
        many = (len(self._names),)
        self._trials = np.zeros(
            0,
            dtype=[
                *(("student", np.intp), ("method", np.intp), ("quantized", np.intp), ("ratio", float), ("pruned", float)),
                *(("known", float, many), ("favourable", float, many), ("deployable", bool), ("fixed", bool)),
            ],
        )
        self._students = np.zeros(0, dtype=[("results", float, (max(rungs, 1),)), ("reached", np.intp), ("trained", float)])
        self._rows: dict[str, int] = {}  # of students
        self._with: list[list[int]] = []  # student's row -> its trials

    # --- what is told

    def enter(self, number: int, entrant: Entrant) -> None:
        """A trial began."""
        student = self._row(entrant.student)
        self._with[student].append(number)
        self._trials = _grown(self._trials, number)
        self._trials[number] = (
            student,
            self._forecast.number(entrant.method, pruned=entrant.ratio > 0),
            self._forecast.number(entrant.quantized, pruned=False),
            entrant.ratio,
            math.nan,
            tuple(entrant.known.get(name, math.nan) for name in self._names),
            tuple(entrant.favourable.get(name, math.nan) for name in self._names),
            entrant.deployable,
            entrant.fixed,
        )

    def leave(self, number: int) -> None:
        """A trial is no longer one of its student's."""
        if number < len(self._trials) and number in (others := self._with[self._trials["student"][number]]):
            others.remove(number)

    def climb(self, student: str, rung: int, accuracy: float) -> bool:
        """A training has reached a rung; whether that is news."""
        row = self._row(student)
        if rung != self._students["reached"][row] or rung >= self._rungs:
            return False
        self._students["results"][row, rung] = accuracy
        self._students["reached"][row] += 1
        return True

    def train(self, student: str, accuracy: float) -> None:
        """A training has ended."""
        self._students["trained"][self._row(student)] = accuracy

    def prune(self, number: int, accuracy: float) -> None:
        """A trial's network was pruned and fine-tuned; nothing is known of one that is not pruned."""
        if self._trials["ratio"][number]:
            self._trials["pruned"][number] = accuracy

    def _row(self, student: str) -> int:
        if student not in self._rows:
            self._rows[student] = row = len(self._rows)
            self._students = _grown(self._students, row)
            self._students["trained"][row] = math.nan
            self._with.append([])
        return self._rows[student]

    # --- what is known

    def with_student(self, student: str) -> list[int]:
        """The trials that a training is for."""
        return self._with[self._row(student)]

    def results(self, student: str) -> list[float]:
        """The training's accuracies so far, by rung."""
        if student not in self._rows:
            return []
        row = self._rows[student]
        return [float(accuracy) for accuracy in self._students["results"][row, : self._students["reached"][row]]]

    def trained(self, number: int) -> float:
        """The accuracy of the trial's trained student; NaN where it is not known."""
        return float(self._students["trained"][self._trials["student"][number]])

    def trial(self, number: int) -> Any:
        """Of a trial by name: ratio, pruned (accuracy of the pruned network, or NaN), deployable, fixed; known and favourable
        (objectives); method and quantized, as `Forecast` numbers them.
        """
        return self._trials[number]

    def column(self, name: str, numbers: Places) -> Any:
        """One of these of many trials (trials)."""
        return self._trials[name][numbers]

    def reached(self, numbers: Places) -> Places:
        """How many rungs the trainings of these trials have reached."""
        return np.asarray(self._students["reached"][self._trials["student"][numbers]])

    def went_on(self, numbers: Places, rung: int) -> npt.NDArray[np.bool_]:
        """Which trials' trainings have gone on from a rung."""
        students = self._students[self._trials["student"][numbers]]
        return np.asarray(~np.isnan(students["trained"]) | (students["reached"] > rung + 1))

    def sources(self, numbers: Places, rung: int | None = None) -> Sources:
        """What the trials are foretold from: all that is known, or only what was known at a rung."""
        trials = self._trials[numbers]
        students = self._students[trials["student"]]
        methods, ratios, every = trials["method"], trials["ratio"], np.arange(len(trials))
        if rung is not None:
            rungs = np.full(len(trials), rung, dtype=np.intp)
            return Sources(rungs, students["results"][:, rung], methods, ratios, methods, ratios)
        is_trained = ~np.isnan(students["trained"])
        is_pruned = is_trained & ~np.isnan(trials["pruned"])
        last = students["reached"] - 1
        accuracies = np.where(is_trained, students["trained"], students["results"][every, last])
        return Sources(
            np.where(is_trained, self._rungs, last),
            np.where(is_pruned, trials["pruned"], accuracies),
            np.where(is_pruned, trials["quantized"], methods),
            np.where(is_pruned, 0.0, ratios),
            methods,
            ratios,
        )


def _grown(table: npt.NDArray[np.void], row: int) -> npt.NDArray[np.void]:
    """With room for the row."""
    if row < len(table):
        return table
    more = max(64, 2 * len(table), row + 1) - len(table)
    return np.concatenate([table, np.zeros(more, dtype=table.dtype)])
