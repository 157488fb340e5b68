"""What the store is worth: the quickstart study with it, and beside it the same candidates each with an empty store.

The second run goes through the candidates of the first, in the same order, on the same number of workers; every trial computes
all of its stages, teacher included, as a study without a store would. Only the engine's time is taken, not Ray's start. Where
other programs run by turns, `processor_speedup` tells more than `speedup`: it is of the processor time that both took.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import optuna
import psutil
import ray
from _quickstart import write_whole
from _report import finish
from rich.console import Console

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, Estimator, Pipeline, Store, load_data, plan
from edgesearch.search.cluster import RayPool
from edgesearch.search.engine import Engine, PlainProgress
from edgesearch.search.processes import Job, run_job
from edgesearch.search.study import Home, candidate_of, create_or_resume, load_study, open_storage
from edgesearch.spaces import Candidate


def run_chain(stages: list[dict[str, object]], data: dict[str, object], folder: str) -> list[str]:
    """All stages of one candidate in a store of its own; returns how each ended."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        jobs = [Job(stage=stage, data=data, store=f"{own}/store", log=f"{own}/log") for stage in stages]
        return [str(run_job(asdict(job))["outcome"]) for job in jobs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_study(str(write_whole(Path(folder))))
        data, board = load_data(settings.data), find_board(settings.board)
        conditions = Conditions.of(data, settings.pipeline, board, seed=settings.seed)
        home = Home(Path(folder) / "home")
        home.prepare()
        study = create_or_resume(open_storage(home.database), settings)
        pool = RayPool(arguments.workers)
        engine = Engine(
            study=study,
            settings=settings,
            conditions=conditions,
            estimator=Estimator(channels=data.channels, classes=len(data.classes), board=board),
            store=Store(home.store),
            pool=pool,
            progress=PlainProgress(Console(quiet=True)),
            logs=home.logs(settings.name),
        )
        # One job first, so that both runs find their workers started and torch imported.
        task = ray.remote(num_cpus=1, max_retries=0)(run_chain)
        ray.get([task.remote([], {}, folder) for _ in range(arguments.workers)])
        print(f"{arguments.trials} trials with the store", flush=True)
        started, spent = time.perf_counter(), processor_seconds()
        engine.run(arguments.trials)
        with_store, with_store_cpu = time.perf_counter() - started, processor_seconds() - spent
        trials = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.COMPLETE]
        print(f"  {with_store:.1f} s; the same {len(trials)} candidates, each with an empty store", flush=True)
        chains = [stages_of(candidate_of(t), settings.pipeline, conditions) for t in trials]
        started, spent = time.perf_counter(), processor_seconds()
        data_settings = settings.data.model_dump(mode="json")
        ended = ray.get([task.remote(chain, data_settings, folder) for chain in chains])
        without_store, without_store_cpu = time.perf_counter() - started, processor_seconds() - spent
        pool.close()
        if any(outcome != "done" for chain in ended for outcome in chain):
            raise SystemExit(f"a stage failed: {ended}")
    print(f"  {without_store:.1f} s", flush=True)
    finish(
        {
            "benchmark": "reuse",
            "trials": len(trials),
            "seconds_with_store": round(with_store, 1),
            "seconds_without": round(without_store, 1),
            "speedup": round(without_store / with_store, 2),
            "processor_seconds_with_store": round(with_store_cpu, 1),
            "processor_seconds_without": round(without_store_cpu, 1),
            "processor_speedup": round(without_store_cpu / with_store_cpu, 2),
        }
    )


def processor_seconds() -> float:
    """Of this process and all that belong to it, those that ended included; other programs do not change it."""
    spent = 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])  # of its own and of its children's, as user and system
    return spent


def stages_of(candidate: Candidate, pipeline: Pipeline, conditions: Conditions) -> list[dict[str, object]]:
    return [stage.to_json() for stage in plan(candidate, pipeline, conditions).walk()]


if __name__ == "__main__":
    main()
