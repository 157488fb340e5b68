"""Which trainings go on from their rungs, which wait, and which are stopped: decisions alone.

Candidates at a rung are ranked by non-dominated sorting on what is expected of them, the last front that finds room by an
epsilon-net, as in MO-ASHA (R. Schmucker et al. 2021, arXiv 2106.12639). The best third goes on, whenever it is asked for, so
that no worker waits for a rung to fill. All objectives but accuracy are known before training; accuracy is foretold as an
interval. A candidate that has less than one chance in five to reach the front, since a finished one dominates what it comes to
else, is stopped: it would be paid for in vain four times in five, and what changes its chances takes it up again. While
workers may run out of better ones, less than one chance in twenty counts as too small.

What is decided depends on what was told, not on the order in which it was.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.search.rungs._entrants import Entrant, Entrants
from edgesearch.search.rungs._forecast import T90, Forecast, shares
from edgesearch.search.rungs._ranks import beaten, epsilon_net, front_numbers
from edgesearch.search.study import Objective, scaled_losses

__all__ = ["Entrant", "Interval", "Rungs", "Verdict"]

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Verdict: TypeAlias = Literal["go", "pause", "stop"]
#: One in five is beyond so many scales of Student's t, with the degrees of freedom of `Forecast`.
_T80 = 0.941
#: So many trials at a rung are compared, the latest: older ones that were not among the best are asked for last.
_LATEST = 500


class Interval(NamedTuple):
    """Of a share that is not known yet: 90 % of what it may come to, and the middle of that."""

    low: float
    middle: float
    high: float


class Rungs:
    """The trials of a study on their rungs, of which a training has `rungs`; one in `factor` goes on from each."""

    def __init__(
        self, objectives: Sequence[Objective], *, rungs: int, factor: int = 3, min_accuracy: float | None = None
    ) -> None:
        self._objectives, self._factor, self._min_accuracy = tuple(objectives), factor, min_accuracy
        self._forecast = Forecast(rungs)
        self._entrants = Entrants([objective.name for objective in objectives], rungs, self._forecast)
        #: Whether workers may run out of what has better chances.
        self.spare = False
        self._reached: list[list[int]] = [[] for _ in range(rungs)]  # rung -> trials, by number
        self._finished: dict[bool, Array] = {d: np.empty((0, len(self._objectives))) for d in (False, True)}  # losses
        self._best: dict[int, set[int]] = {}  # rung -> trials that may go on from it, since the last news
        self._in_vain: set[tuple[frozenset[int], bool, bool]] = set()  # what `next` was asked in vain, since the last news

    # --- news

    def enter(self, number: int, entrant: Entrant) -> None:
        """A trial began."""
        self._entrants.enter(number, entrant)
        for rung in range(len(self._entrants.results(entrant.student))):
            bisect.insort(self._reached[rung], number)
            self._have_news()

    def leave(self, number: int) -> None:
        """A trial failed: it is as if it had not been."""
        self._entrants.leave(number)
        for numbers in self._reached:
            place = bisect.bisect_left(numbers, number)
            if numbers[place : place + 1] == [number]:
                del numbers[place]
        self._have_news()

    def climbed(self, student: str, rung: int, accuracy: float) -> None:
        """A student's training reached a rung, 0 the first; rungs are told in their order, again or not."""
        if self._entrants.climb(student, rung, accuracy):
            for number in self._entrants.with_student(student):
                bisect.insort(self._reached[rung], number)
            self._have_news()

    def trained(self, student: str, accuracy: float) -> None:
        """A student's training ended with this accuracy."""
        self._entrants.train(student, accuracy)
        if results := self._entrants.results(student):
            self._forecast.learn_student(student, results, accuracy)
        self._have_news()

    def pruned(self, number: int, accuracy: float) -> None:
        """A trial's network was pruned and fine-tuned, and has this accuracy."""
        self._entrants.prune(number, accuracy)

    def finished(self, number: int, figures: Mapping[str, float], *, feasible: bool) -> None:
        """A trial ended with these figures, its objectives and accuracy among them; `feasible`: it keeps every constraint."""
        trial, trained = self._entrants.trial(number), self._entrants.trained(number)
        method, ratio = int(trial["method"]), float(trial["ratio"])
        if not math.isnan(trained):
            self._forecast.learn_method(method, ratio, trained, figures["accuracy"])
        if not math.isnan(trial["pruned"]):
            self._forecast.learn_method(int(trial["quantized"]), 0.0, float(trial["pruned"]), figures["accuracy"])
        for objective, expected in zip(self._objectives, trial["known"].tolist(), strict=True):
            if ratio and expected > 0 and figures[objective.name] > 0:
                self._forecast.learn_scale(method, objective.name, ratio, expected, figures[objective.name])
        if feasible:
            losses = np.array([[objective.loss(figures[objective.name]) for objective in self._objectives]])
            for deployable in {False, bool(trial["deployable"])}:  # what no DPU runs pushes nothing else off the front
                front = self._finished[deployable]
                if not beaten(losses, front)[0]:
                    self._finished[deployable] = np.vstack([front[~(losses <= front).all(axis=1)], losses])
        self._have_news()

    def _have_news(self) -> None:
        self._best.clear()
        self._in_vain.clear()

    # --- questions

    def verdict(self, number: int) -> Verdict:
        """What becomes of a trial whose student has just reached a rung."""
        if self._entrants.trial(number)["fixed"]:
            return "go"
        if self.given_up([number]):
            return "stop"
        return "go" if number in self._promotable(int(self._rungs_of(_places([number]))[0])) else "pause"

    def next(self, paused: Collection[int], *, last: bool = False) -> int | None:
        """The paused trial that goes on now; None where none does.

        Those on the highest rung come first, the best before the others. `last`: no trial will begin any more, so that all that
        can reach the front go on, one after the other.
        """
        asked = frozenset(paused), last, self.spare
        if asked in self._in_vain:
            return None
        numbers = _places(sorted(paused))
        rungs = self._rungs_of(numbers)
        for rung in sorted(set(rungs.tolist()), reverse=True):
            here: list[int] = numbers[rungs == rung].tolist()
            if not last:
                here = sorted(self._promotable(rung).intersection(here))
            hopeful = sorted(set(here) - set(self.given_up(here)))
            if hopeful:
                return self._farthest(next(self._fronts(hopeful, rung)).numbers, rung)
        self._in_vain.add(asked)
        return None

    def given_up(self, numbers: Iterable[int]) -> list[int]:
        """Those that are hopeless with workers as they are now; see `spare`."""
        return self.hopeless(numbers, spare=self.spare)

    def hopeless(self, numbers: Iterable[int], *, spare: bool = False) -> list[int]:
        """Those with too small a chance to reach the front, or below the least accuracy at the end of their interval, too.

        `spare`: as long as workers may run out of better ones.
        """
        asked = _places(numbers)
        asked = asked[~self._entrants.column("fixed", asked)]
        if not len(asked):
            return []
        losses = self._losses(self._values(asked, beyond=T90 if spare else _T80))
        lost = np.zeros(len(asked), dtype=bool)
        if self._min_accuracy is not None:
            lost |= self._values(asked, beyond=T90)["accuracy"] < self._min_accuracy
        deployable = self._entrants.column("deployable", asked)
        for kind, front in self._finished.items():
            lost |= (deployable == kind) & beaten(losses, front)
        found: list[int] = asked[lost].tolist()
        return found

    def interval(self, number: int) -> Interval:
        """What the trial's accuracy is foretold to come to."""
        sources = self._entrants.sources(_places([number]))
        mean, deviation = self._forecast.moments(sources.rungs, sources.accuracies, sources.methods, sources.ratios)
        return Interval(*(float(shares(mean + end * deviation)[0]) for end in (-T90, 0.0, T90)))

    def expected(self, number: int) -> dict[str, float]:
        """The trial's objectives, and its accuracy, as they are expected to end."""
        return {name: float(value[0]) for name, value in self._values(_places([number])).items()}

    def results(self, student: str) -> tuple[float, ...]:
        """The student's accuracies so far, by rung."""
        return tuple(self._entrants.results(student))

    # --- ranks

    def _rungs_of(self, numbers: Places) -> Places:
        return self._entrants.reached(numbers) - 1

    def _promotable(self, rung: int) -> set[int]:
        """The best of all trials that reached the rung; of few at least one, so that there is something to learn from."""
        if rung not in self._best:
            reached = self._reached[rung][-_LATEST:]
            room, best = -(-len(reached) // self._factor), set[int]()
            for front in self._fronts(reached, rung):
                found = front.numbers if len(front.numbers) <= room else front.spread(room)
                best.update(found)
                room -= len(found)
                if not room:
                    break
            self._best[rung] = best
        return self._best[rung]

    def _fronts(self, numbers: Sequence[int], rung: int) -> Iterator[_Front]:
        """Trials by what is expected of them from the results of a rung; those that miss a limit are last."""
        places = _places(numbers)
        values = self._values(places, rung)
        missed = np.zeros(len(places))
        if self._min_accuracy is not None:
            missed = np.maximum(self._min_accuracy - values["accuracy"], 0.0)
        keeps = np.flatnonzero(missed == 0)
        if len(keeps):
            losses = self._losses(values)[keeps]
            fronts, scaled = front_numbers(losses), scaled_losses(losses, self._objectives)
            for front in range(int(fronts.max()) + 1):
                rows = np.flatnonzero(fronts == front)
                yield _Front(places[keeps[rows]].tolist(), scaled[rows])
        for place in sorted(np.flatnonzero(missed > 0).tolist(), key=lambda place: (missed[place], place)):
            yield _Front([int(places[place])], np.zeros((1, 1)))

    def _farthest(self, numbers: Sequence[int], rung: int) -> int:
        """The one that is least like the trials that went on from the rung; the first by the first objective where none did."""
        others = _places(self._reached[rung][-_LATEST:])
        others = others[self._entrants.went_on(others, rung) & ~np.isin(others, numbers)]
        losses = self._losses(self._values(np.concatenate([others, _places(numbers)]), rung))
        points = scaled_losses(losses, self._objectives)
        return numbers[int(epsilon_net(points, named=len(others), count=1)[0])]

    def _values(self, numbers: Places, rung: int | None = None, *, beyond: float = 0.0) -> dict[str, Array]:
        """Accuracy, and every other objective, of the trials (trials), from all that is known or only the results of a rung: as
        expected, or so many scales of what is doubtful better.
        """
        sources = self._entrants.sources(numbers, rung)
        mean, deviation = self._forecast.moments(sources.rungs, sources.accuracies, sources.methods, sources.ratios)
        values = {"accuracy": shares(mean + beyond * deviation)}
        known = self._entrants.column("favourable" if beyond else "known", numbers)
        for objective, metric in zip(self._objectives, known.T, strict=True):
            if objective.name == "accuracy":
                continue
            scale, doubt = self._forecast.scales(objective.name, sources.pruning, sources.shares)
            values[objective.name] = metric * np.exp(scale + (1 if objective.maximise else -1) * beyond * doubt)
        return values

    def _losses(self, values: Mapping[str, Array]) -> Array:
        return np.stack([(-1 if o.maximise else 1) * values[o.name] for o in self._objectives], axis=1)


class _Front(NamedTuple):
    """Trials of which none is better than another; points (trials, objectives) scaled to 0 .. 1."""

    numbers: list[int]
    points: Array

    def spread(self, count: int) -> list[int]:
        """So many of the trials, in an order that spreads over the front."""
        return [self.numbers[row] for row in epsilon_net(self.points, count=count)]


def _places(numbers: Iterable[int]) -> Places:
    return np.fromiter(numbers, dtype=np.intp)
