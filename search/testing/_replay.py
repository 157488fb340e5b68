"""Searches on a recorded study: the engine itself, with its samplers and everything else, on workers in simulated time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import optuna

from edgesearch.errors import SpaceError, StudyError
from edgesearch.objectives import Estimator
from edgesearch.search.engine import Engine
from edgesearch.search.study import StudyFile, quiet_optuna
from edgesearch.spaces import Candidate, Space
from edgesearch.testing._replay_ledger import MemoryLedger
from edgesearch.testing._replay_pool import ReplayPool
from edgesearch.testing._replay_store import MemoryStore
from edgesearch.testing._table import Table, candidates_of
from edgesearch.testing._volume import Volume

__all__ = ["History", "Point", "RecordedEstimator", "digits_table", "replay"]


@dataclass(frozen=True)
class Point:
    """A search right after a trial was finished or failed.

    seconds: of simulated time. worker_seconds: for which workers have worked by then, in sum. trials: that have ended, those
    that were stopped at a rung included.
    front: values of the objectives, in their units, of the candidates that keep all constraints and that no other beats.
    share: hypervolume, as a share of that of all candidates of the table.
    """

    seconds: float
    worker_seconds: float
    trials: int
    front: tuple[tuple[float, ...], ...]
    hypervolume: float
    share: float


@dataclass(frozen=True)
class History:
    """A search, trial by trial, with `workers` workers."""

    workers: int
    points: tuple[Point, ...]

    @property
    def busy(self) -> float:
        """The share of its time for which a worker worked, up to the end of the last trial."""
        last = self.points[-1] if self.points else None
        return last.worker_seconds / (self.workers * last.seconds) if last and last.seconds else 0.0

    def after(self, trials: int) -> Point | None:
        """The last point at which no more than so many trials had ended; None where the first had more."""
        return next((point for point in reversed(self.points) if point.trials <= trials), None)

    def reached(self, share: float) -> Point | None:
        """The first point with that share of the hypervolume; None where the search never came to it."""
        return next((point for point in self.points if point.share >= share), None)


class RecordedEstimator(Estimator):
    """The cheap objectives as they were recorded. Raises LookupError for a candidate that is not in the table."""

    def __init__(self, table: Table) -> None:
        self._table, self.board = table, table.board

    def estimate(self, candidate: Candidate) -> dict[str, float]:
        """The metrics that are known before training; raises SpaceError for what the DPU cannot run."""
        found = self._table.estimates[candidate.key]
        if "unsupported" in found:
            raise SpaceError(found["unsupported"])
        return dict(found)

    def network_key(self, candidate: Candidate) -> str:
        """The candidate's: a table's students are all different networks."""
        return candidate.key

    def beyond_reach(self, candidate: Candidate) -> None:
        """Nothing is known of what the networks could lose."""


@cache
def digits_table() -> Table:
    """The table that comes with edgesearch: every candidate of a small space on noisy digits."""
    with resources.as_file(resources.files("edgesearch.testing") / "digits_grid.json.gz") as path:
        return Table.load(path)


def replay(
    study: StudyFile | None = None,
    *,
    table: Table | None = None,
    workers: int = 1,
    seed: int = 0,
    trials: int | None = None,
    until: float = math.inf,
) -> History:
    """Search a recorded study with the engine; minutes or hours of training take seconds.

    `study` (default: the table's own) says how: [search] with a sampler of your own, say, other constraints or objectives, a
    part of the space. `seed` takes the place of its own. It ends after `trials` trials (default: as many as the table has
    candidates), or when the front has the share `until` of the hypervolume of all candidates. A proposal takes no time.

    Raises StudyError for a study whose stages or candidates are not those of the table.
    """
    table = digits_table() if table is None else table
    settings = (table.study if study is None else study).model_copy(update={"seed": seed})
    settings = settings.resolved(granularity=table.board.target.channel_parallel)
    _refuse_others(table, settings)
    store = MemoryStore()
    pool = ReplayPool(table, store, workers=workers)
    watcher = _Watcher(table, settings, pool, until)
    with quiet_optuna():
        optuna_study = optuna.create_study(directions=settings.directions)
        try:
            engine = Engine(
                study=optuna_study,
                settings=settings,
                conditions=table.conditions,
                estimator=RecordedEstimator(table),
                store=store,
                pool=pool,
                progress=watcher,
                logs=Path("replayed"),
                ledger=MemoryLedger(optuna_study),
                folder=settings.folder,
            )
            engine.run(len(table.candidates) if trials is None else trials)
        except _Reached:
            pass
    return History(workers, tuple(watcher.points))


def _refuse_others(table: Table, settings: StudyFile) -> None:
    if settings.pipeline != table.study.pipeline or settings.board != table.study.board:
        raise StudyError(
            f"study {settings.name!r} trains, prunes, quantizes or measures otherwise than table {table.study.name!r} was "
            "recorded; change [search], [space], [constraints] and objectives of the table's own study alone"
        )
    named = [candidate.canonical() for candidate in settings.candidates]
    drawn = [] if settings.space is None else _candidates(settings.space.model_dump_json(), settings.folder)
    for candidate in (*named, *drawn):
        if candidate.key not in table.estimates:
            raise StudyError(f"{candidate} is not in table {table.study.name!r}; search a part of its space")


@cache
def _candidates(space: str, folder: Path) -> tuple[Candidate, ...]:
    return tuple(candidates_of(Space.model_validate_json(space), folder))


class _Reached(Exception):
    """The search found as much as was asked for."""


class _Watcher:
    """Told of every trial that ends. It believes the table, not what it is told of a candidate's figures."""

    def __init__(self, table: Table, settings: StudyFile, pool: ReplayPool, until: float) -> None:
        self._table, self._settings, self._pool, self._until = table, settings, pool, until
        self._volume = Volume(table, settings)
        self._front: list[tuple[float, ...]] = []  # losses
        self._values: dict[tuple[float, ...], tuple[float, ...]] = {}  # by losses
        self._ended = 0
        self.points: list[Point] = []

    def note(self, message: str) -> None:
        """Nobody reads it."""

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        """So many trials have ended; it is told before `finished` is."""
        self._ended = done

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        """A trial ended; raises _Reached when the search has found enough."""
        figures = None if failure is not None or "accuracy" not in metrics else self._table.figures(candidate)
        if figures is not None and self._volume.keeps(figures):
            losses = self._volume.losses(figures)
            self._values[losses] = tuple(float(figures[name]) for name in self._settings.objectives)
            self._front = self._volume.front([*self._front, losses])
        reached = self._volume.of(self._front)
        point = Point(
            seconds=self._pool.now,
            worker_seconds=self._pool.worker_seconds,
            trials=self._ended,
            front=tuple(self._values[losses] for losses in self._front),
            hypervolume=reached,
            share=reached / self._volume.best,
        )
        self.points.append(point)
        if point.share >= self._until:
            raise _Reached
