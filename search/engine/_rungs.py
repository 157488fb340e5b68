"""Which trainings go on from their rungs, which wait, and which are stopped: decisions alone.

Candidates at a rung are ranked by non-dominated sorting on what is expected of them, the last front that finds room by an
epsilon-net, as in MO-ASHA (R. Schmucker et al. 2021, arXiv 2106.12639). The best third goes on, whenever it is asked for, so
that no worker waits for a rung to fill. All objectives but accuracy are known before training; accuracy is foretold as an
interval. A candidate that at the favourable ends of its intervals is dominated by a finished one cannot reach the front, and
is stopped.

What is decided depends on what was told, not on the order in which it was.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.search.engine._forecast import T90, Forecast, Source, shares
from edgesearch.search.study import Objective, scaled_losses

Array = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["go", "pause", "stop"]
#: So many trials at a rung are compared, the latest: older ones that were not among the best are asked for last.
_LATEST = 500


class Interval(NamedTuple):
    """Of a share that is not known yet: 90 % of what it may come to, and the middle of that."""

    low: float
    middle: float
    high: float


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


class Rungs:
    """The trials of a study on their rungs, of which a training has `rungs`; one in `factor` goes on from each."""

    def __init__(
        self, objectives: Sequence[Objective], *, rungs: int, factor: int = 3, min_accuracy: float | None = None
    ) -> None:
        self._objectives, self._factor, self._min_accuracy = tuple(objectives), factor, min_accuracy
        self._forecast = Forecast(rungs)
        self._trials: dict[int, Entrant] = {}
        self._reached: list[list[int]] = [[] for _ in range(rungs)]  # rung -> trials, by number
        self._with: dict[str, list[int]] = {}  # student -> trials
        self._results: dict[str, list[float]] = {}  # student -> accuracy by rung
        self._trained: dict[str, float] = {}  # student -> its accuracy
        self._pruned: dict[int, float] = {}  # trial -> accuracy of its pruned network
        self._finished: dict[bool, Array] = {d: np.empty((0, len(self._objectives))) for d in (False, True)}  # losses
        self._best: dict[int, set[int]] = {}  # rung -> trials that may go on from it, since the last news
        self._in_vain: set[tuple[frozenset[int], bool]] = set()  # what `next` was asked in vain, since the last news

    # --- news

    def enter(self, number: int, entrant: Entrant) -> None:
        """A trial began."""
        self._trials[number] = entrant
        self._with.setdefault(entrant.student, []).append(number)
        for rung in range(len(self._results.get(entrant.student, ()))):
            bisect.insort(self._reached[rung], number)
            self._have_news()

    def leave(self, number: int) -> None:
        """A trial failed: it is as if it had not been."""
        entrant = self._trials.pop(number, None)
        if entrant is not None:
            for numbers in (self._with[entrant.student], *self._reached):
                if number in numbers:
                    numbers.remove(number)
        self._have_news()

    def climbed(self, student: str, rung: int, accuracy: float) -> None:
        """A student's training reached a rung, 0 the first; rungs are told in their order, again or not."""
        results = self._results.setdefault(student, [])
        if rung == len(results) < len(self._reached):
            results.append(accuracy)
            for number in self._with.get(student, ()):
                bisect.insort(self._reached[rung], number)
            self._have_news()

    def trained(self, student: str, accuracy: float) -> None:
        """A student's training ended with this accuracy."""
        self._trained[student] = accuracy
        if results := self._results.get(student):
            self._forecast.learn_student(student, results, accuracy)
        self._have_news()

    def pruned(self, number: int, accuracy: float) -> None:
        """A trial's network was pruned and fine-tuned, and has this accuracy."""
        if self._trials[number].ratio:
            self._pruned[number] = accuracy

    def finished(self, number: int, figures: Mapping[str, float], *, feasible: bool) -> None:
        """A trial ended with these figures, its objectives and accuracy among them; `feasible`: it keeps every constraint."""
        entrant = self._trials[number]
        if entrant.student in self._trained:
            student = self._trained[entrant.student]
            self._forecast.learn_method(entrant.method, entrant.ratio, student, figures["accuracy"])
        if number in self._pruned:
            self._forecast.learn_method(entrant.quantized, 0.0, self._pruned[number], figures["accuracy"])
        for objective in self._objectives:
            name, expected = objective.name, entrant.known.get(objective.name, 0.0)
            if entrant.ratio and expected > 0 and figures[name] > 0:
                self._forecast.learn_scale(entrant.method, name, entrant.ratio, expected, figures[name])
        if feasible:
            losses = np.array([objective.loss(figures[objective.name]) for objective in self._objectives])
            for deployable in {False, entrant.deployable}:  # what no DPU runs pushes nothing else off the front
                front = self._finished[deployable]
                if not (front <= losses).all(axis=1).any():
                    self._finished[deployable] = np.vstack([front[~(losses <= front).all(axis=1)], losses])
        self._have_news()

    def _have_news(self) -> None:
        self._best.clear()
        self._in_vain.clear()

    # --- questions

    def verdict(self, number: int) -> Verdict:
        """What becomes of a trial whose student has just reached a rung."""
        if self._trials[number].fixed:
            return "go"
        if self.hopeless([number]):
            return "stop"
        return "go" if number in self._promotable(self._rung_of(number)) else "pause"

    def next(self, paused: Collection[int], *, last: bool = False) -> int | None:
        """The paused trial that goes on now; None where none does.

        Those on the highest rung come first, the best before the others. `last`: no trial will begin any more, so that all that
        can reach the front go on, one after the other.
        """
        waiting = frozenset(paused)
        if (waiting, last) in self._in_vain:
            return None
        for rung in sorted({self._rung_of(number) for number in waiting}, reverse=True):
            here = [number for number in waiting if self._rung_of(number) == rung]
            if not last:
                here = [number for number in here if number in self._promotable(rung)]
            hopeful = sorted(set(here) - set(self.hopeless(here)))
            if hopeful:
                return self._farthest(self._fronts(hopeful, rung)[0].numbers, rung)
        self._in_vain.add((waiting, last))
        return None

    def hopeless(self, numbers: Iterable[int]) -> list[int]:
        """Those that cannot reach the front, even at the favourable ends of all intervals."""
        asked = [number for number in numbers if not self._trials[number].fixed]
        if not asked:
            return []
        values = self._values(asked, [self._source(number) for number in asked], favourable=True)
        losses = self._losses(values)
        lost = np.zeros(len(asked), dtype=bool)
        if self._min_accuracy is not None:
            lost |= values["accuracy"] < self._min_accuracy
        deployable = np.array([self._trials[number].deployable for number in asked])
        for kind, front in self._finished.items():
            lost |= (deployable == kind) & (front[:, None] <= losses[None]).all(axis=2).any(axis=0)
        return [number for number, is_lost in zip(asked, lost.tolist(), strict=True) if is_lost]

    def interval(self, number: int) -> Interval:
        """What the trial's accuracy is foretold to come to."""
        mean, deviation = self._forecast.moments([self._source(number)])
        return Interval(*(float(shares(mean + end * deviation)[0]) for end in (-T90, 0.0, T90)))

    def expected(self, number: int) -> dict[str, float]:
        """The trial's objectives, and its accuracy, as they are expected to end."""
        return {name: float(value[0]) for name, value in self._values([number], [self._source(number)]).items()}

    def results(self, student: str) -> tuple[float, ...]:
        """The student's accuracies so far, by rung."""
        return tuple(self._results.get(student, ()))

    # --- ranks

    def _rung_of(self, number: int) -> int:
        return len(self._results[self._trials[number].student]) - 1

    def _source(self, number: int, rung: int | None = None) -> Source:
        entrant = self._trials[number]
        if rung is None and entrant.student in self._trained:
            pruned = (self._pruned[number], entrant.quantized) if number in self._pruned else None
            return Source(self._forecast.rungs, self._trained[entrant.student], entrant.method, entrant.ratio, pruned)
        results = self._results[entrant.student]
        at = len(results) - 1 if rung is None else rung
        return Source(at, results[at], entrant.method, entrant.ratio)

    def _promotable(self, rung: int) -> set[int]:
        """The best of all trials that reached the rung; of few at least one, so that there is something to learn from."""
        if rung not in self._best:
            reached = self._reached[rung][-_LATEST:]
            room, best = -(-len(reached) // self._factor), set[int]()
            for front in self._fronts(reached, rung):
                found = front.numbers if len(front.numbers) <= room else front.spread()[:room]
                best.update(found)
                room -= len(found)
                if not room:
                    break
            self._best[rung] = best
        return self._best[rung]

    def _fronts(self, numbers: Sequence[int], rung: int) -> list[_Front]:
        """Trials by what is expected of them from the results of a rung; those that miss a limit are last."""
        values = self._values(numbers, [self._source(number, rung) for number in numbers])
        missed = np.zeros(len(numbers))
        if self._min_accuracy is not None:
            missed = np.maximum(self._min_accuracy - values["accuracy"], 0.0)
        keeps = np.flatnonzero(missed == 0)
        losses = self._losses(values)[keeps]
        fronts = []
        if len(keeps):
            places, scaled = front_numbers(losses), scaled_losses(losses, self._objectives)
            rows = (np.flatnonzero(places == front) for front in range(int(places.max()) + 1))
            fronts = [_Front([numbers[keeps[row]] for row in front], scaled[front]) for front in rows]
        behind = sorted(np.flatnonzero(missed > 0).tolist(), key=lambda place: (missed[place], place))
        return fronts + [_Front([numbers[place]], np.zeros((1, 1))) for place in behind]

    def _farthest(self, numbers: Sequence[int], rung: int) -> int:
        """The one that is least like the trials that went on from the rung; the first by the first objective where none did."""
        gone = [n for n in self._reached[rung][-_LATEST:] if n not in numbers and self._went_on(n, rung)]
        sources = [self._source(number, rung) for number in (*gone, *numbers)]
        points = scaled_losses(self._losses(self._values([*gone, *numbers], sources)), self._objectives)
        return numbers[int(epsilon_net(points, named=len(gone))[0])]

    def _went_on(self, number: int, rung: int) -> bool:
        student = self._trials[number].student
        return student in self._trained or len(self._results[student]) > rung + 1

    def _values(self, numbers: Sequence[int], sources: Sequence[Source], *, favourable: bool = False) -> dict[str, Array]:
        """Accuracy, and every other objective, of the trials: as expected, or at the ends of their intervals that suit them."""
        mean, deviation = self._forecast.moments(sources)
        values = {"accuracy": shares(mean + (T90 * deviation if favourable else 0.0))}
        for objective in self._objectives:
            name = objective.name
            if name == "accuracy":
                continue
            tables = [self._trials[number].favourable if favourable else self._trials[number].known for number in numbers]
            scale, doubt = self._forecast.scales(sources, name)
            better = (1 if objective.maximise else -1) * T90 * doubt if favourable else 0.0
            values[name] = np.array([table[name] for table in tables]) * np.exp(scale + better)
        return values

    def _losses(self, values: Mapping[str, Array]) -> Array:
        return np.stack([(-1 if o.maximise else 1) * values[o.name] for o in self._objectives], axis=1)


@dataclass(frozen=True)
class _Front:
    """Trials of which none is better than another; points (trials, objectives) scaled to 0 .. 1."""

    numbers: list[int]
    points: Array

    def spread(self) -> list[int]:
        """The trials in an order that spreads over the front."""
        return [self.numbers[row] for row in epsilon_net(self.points)]


def front_numbers(losses: Array) -> npt.NDArray[np.intp]:
    """The front of each row of `losses` (points, objectives): 0 where no row dominates it, 1 where only those do, and so on.

    Of equal rows the first dominates the others. O(n log n) for two objectives.
    """
    order = np.lexsort(losses.T[::-1])
    numbers = np.empty(len(losses), dtype=np.intp)
    if losses.shape[1] == 2:
        least: list[float] = []  # of each front's second losses, rising
        for row, second in zip(order.tolist(), losses[order, 1].tolist(), strict=True):
            front = bisect.bisect_right(least, second)
            least[front : front + 1] = [second]
            numbers[row] = front
        return numbers
    fronts: list[list[int]] = []
    for row in order.tolist():  # what dominates a row comes before it
        front = next((f for f, rows in enumerate(fronts) if not (losses[rows] <= losses[row]).all(axis=1).any()), len(fronts))
        if front == len(fronts):
            fronts.append([])
        fronts[front].append(row)
        numbers[row] = front
    return numbers


def epsilon_net(points: Array, *, named: int = 0) -> npt.NDArray[np.intp]:
    """Rows behind the first `named` of `points` (points, dimensions) in an order that spreads: ever the farthest from those
    named so far; the first by the first column where none was. Rows are counted from the first that is not named yet.
    """
    known, points = points[:named], points[named:]
    distance = np.full(len(points), math.inf)
    for point in known:
        distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
    order: list[int] = []
    for place in range(len(points)):
        nearest = points[:, 0] if not place and not named else -distance
        order.append(int(np.argmin(nearest)))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
        distance[order] = -1.0
    return np.array(order, dtype=np.intp)
