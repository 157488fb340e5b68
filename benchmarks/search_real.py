"""Searches for real, on the bundled study: the engine, and Optuna's samplers running the whole pipeline in every trial.

All train on this machine, side by side, each with one worker of one thread, so that what slows one slows all. Plain searches
make their teacher and its logits once, and a candidate that is drawn again costs them nothing, as in `search_efficiency.py`.
The engine begins with the study's own two candidates, which no plain search is given. A search's cost is the seconds of its
stages. The reference is the hypervolume of all candidates that any of the searches tried; frames per second count by their
logarithm, and the corner lies at the least accuracy that the study allows and at the slowest network seen. With one seed this
is an example, and no statistic.

    all           the engine, as `edgesearch optimize quickstart` runs it
    tpe, nsga2    every trial runs all stages of its candidate
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _report import finish
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from rich.console import Console

from edgesearch.board_eval import Board, find_board
from edgesearch.objectives import Conditions, DataSet, Estimator, Store, load_data, plan
from edgesearch.search.engine import Engine, PlainProgress, Pool, make_pool
from edgesearch.search.processes import Job, JobResult, run_job
from edgesearch.search.study import Home, StudyFile, create_or_resume, load_study, open_storage, quiet_optuna, volume
from edgesearch.spaces import Candidate

SHARE = 0.97
SEARCHES = ("all", "tpe", "nsga2")
#: Stages that a plain search makes once.
ONCE = ("teacher", "logits")


class Notes:
    """What a search found, a line for each trial: seconds of its stages so far, accuracy, frames per second."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, seconds: float, figures: Mapping[str, Any]) -> None:
        line = {"seconds": round(seconds, 2), "accuracy": figures["accuracy"], "fps": figures["fps"]}
        print(json.dumps(line), file=self._file, flush=True)


class CountedPool:
    """A pool, and the seconds of the jobs that ended in it."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self.seconds = pool, 0.0
        self.slots, self.waits_for_boards = pool.slots, pool.waits_for_boards
        self.submit, self.cancel, self.close = pool.submit, pool.cancel, pool.close

    def wait(self, timeout: float) -> list[JobResult]:
        ended = self._pool.wait(timeout)
        self.seconds += sum(result.seconds for result in ended)
        return ended


class Watcher(PlainProgress):
    """Notes trials as they end."""

    def __init__(self, pool: CountedPool, notes: Notes) -> None:
        super().__init__(Console(quiet=True))
        self._pool, self._notes = pool, notes

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        if failure is None and "accuracy" in metrics:
            self._notes.add(self._pool.seconds, metrics)


def engine_search(settings: StudyFile, data: DataSet, board: Board, home: Home, trials: int, notes: Notes) -> None:
    pool = CountedPool(make_pool(0))
    Engine(
        study=create_or_resume(open_storage(home.database), settings),
        settings=settings,
        conditions=Conditions.of(data, settings.pipeline, board, seed=settings.seed),
        estimator=Estimator(channels=data.channels, classes=len(data.classes), board=board),
        store=Store(home.store),
        pool=pool,
        progress=Watcher(pool, notes),
        logs=home.logs(settings.name),
    ).run(trials)
    pool.close()


def plain_search(
    settings: StudyFile, data: DataSet, board: Board, home: Home, trials: int, notes: Notes, sampler: BaseSampler
) -> None:
    assert settings.space is not None
    conditions = Conditions.of(data, settings.pipeline, board, seed=settings.seed)
    study = optuna.create_study(directions=settings.directions, sampler=sampler)
    known: dict[str, Mapping[str, Any] | None] = {}
    spent = 0.0
    while len(known) < trials:
        trial = study.ask()
        candidate = settings.space.suggest(trial).resolved(granularity=board.target.channel_parallel)
        if candidate.key not in known:
            seconds, known[candidate.key] = whole_pipeline(candidate, settings, conditions, home)
            spent += seconds
            if (found := known[candidate.key]) is not None:
                notes.add(spent, found)
        figures = known[candidate.key]
        if figures is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        for name, excess in settings.constraints.excesses(figures).items():
            trial.set_constraint(name, excess)
        study.tell(trial, [figures[name] for name in settings.objectives])


def whole_pipeline(
    candidate: Candidate, settings: StudyFile, conditions: Conditions, home: Home
) -> tuple[float, Mapping[str, Any] | None]:
    """Seconds and figures of all stages of a candidate, in a store that has what is made once, and nothing else."""
    stages = list(plan(candidate, settings.pipeline, conditions).walk())
    spent, once = 0.0, home.store / "artifacts"
    with tempfile.TemporaryDirectory(dir=home.root) as folder:
        own = Path(folder) / "store"
        if once.exists():
            shutil.copytree(once, own / "artifacts")
        store = Store(own)
        for stage in stages:
            if store.has(stage.kind, stage.key):
                continue
            job = Job(stage=stage.to_json(), data=settings.data.model_dump(mode="json"), store=str(own), log=f"{folder}/log")
            begun = time.perf_counter()
            outcome = run_job(asdict(job))["outcome"]
            spent += time.perf_counter() - begun
            if outcome != "done":
                return spent, None
        for kind in ONCE:
            if (own / "artifacts" / kind).exists():
                shutil.copytree(own / "artifacts" / kind, once / kind, dirs_exist_ok=True)
        measured = store.get("measured", stages[-1].key)
        assert measured is not None
        return spent, measured.figures


def search(name: str, trials: int, seed: int, home: Home, notes: Notes) -> None:
    settings = load_study("quickstart").model_copy(update={"seed": seed})
    board = find_board(settings.board)
    settings = settings.resolved(granularity=board.target.channel_parallel)
    data = load_data(settings.data)
    home.prepare()
    if name == "all":
        engine_search(settings, data, board, home, trials, notes)
        return
    with quiet_optuna():
        sampler = {
            "tpe": lambda: TPESampler(seed=seed, multivariate=True, group=True),
            "nsga2": lambda: NSGAIISampler(seed=seed, population_size=settings.search.population),
        }[name]()
        plain_search(settings, data, board, home, trials, notes, sampler)


def compare(found: Mapping[str, Sequence[Mapping[str, float]]], least: float) -> dict[str, Any]:
    """Seconds that each search took to SHARE of the hypervolume of all together; None where it never came to it."""
    slowest = min(math.log(trial["fps"]) for trials in found.values() for trial in trials)
    corner = np.array([-least, -slowest])

    def size(trials: Iterable[Mapping[str, float]]) -> float:
        return volume(np.array([[-trial["accuracy"], -math.log(trial["fps"])] for trial in trials]), corner)

    best = size(trial for trials in found.values() for trial in trials)
    figures: dict[str, Any] = {}
    for name, trials in found.items():
        shares = [size(trials[: count + 1]) / best for count in range(len(trials))]
        reached = next((trial["seconds"] for trial, share in zip(trials, shares, strict=True) if share >= SHARE), None)
        figures[name] = {
            "trials": len(trials),
            "seconds": trials[-1]["seconds"],
            "seconds_to_share": reached,
            "share_in_the_end": round(shares[-1], 4),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--one", choices=SEARCHES, help="run this search alone, and write its trials to --notes")
    parser.add_argument("--notes", type=Path, help="default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.one:
            home = Home(Path(folder))
            search(arguments.one, arguments.trials, arguments.seed, home, Notes(arguments.notes))
            return
        notes = {name: Path(folder) / f"{name}.jsonl" for name in arguments.searches}
        base = [sys.executable, __file__, "--trials", str(arguments.trials), "--seed", str(arguments.seed)]
        running = [
            subprocess.Popen([*base, "--one", name, "--notes", str(path)], env=os.environ | {"OMP_NUM_THREADS": "1"})
            for name, path in notes.items()
        ]
        if any(process.wait() for process in running):
            raise SystemExit("a search failed")
        found = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in notes.items()}
    least = load_study("quickstart").constraints.min_accuracy
    assert least is not None
    figures = compare(found, least)
    for name, values in figures.items():
        print(f"{name:<8} {values}", flush=True)
    ours = figures.get("all", {}).get("seconds_to_share")
    ratios = {
        f"speedup_vs_{name}": round(values["seconds_to_share"] / ours, 2) if ours and values["seconds_to_share"] else None
        for name, values in figures.items()
        if name != "all"
    }
    finish({"benchmark": "search_real", "seed": arguments.seed, "share": SHARE, **ratios, "searches": figures})


if __name__ == "__main__":
    main()
