"""What the engine itself costs, with stages that end at once: proposals, estimates, keys, the store, the database, the report.

The engine, the sampler, the space, the estimator (lowering, compiler, timing), the store and SQLite are the real ones. Stages
are not: an inline pool writes an artifact with plausible figures the moment a stage is given to it. What that takes is left
out of all figures but `wall_s`, since a worker would do it.

`driver_cpu_ms_per_trial_1000`: processor time of the driver for a trial, median of the 200 up to the 1,000th (with fewer
trials, of the last fifth); `..._mean`: mean of all trials. `beside_cpu_s`: of the process in which networks that are new are
built, timed and their memory foretold, as `optimize` has it with several workers. `longest_wait_s`: the longest time for
which a stage that had ended was not collected.
`seconds_10000`: from the first proposal to the last trial; null with fewer trials. `ask_p99_ms_10000`: of the sampler's draws
for the last 1,000 trials, by the wall clock; `ask_cpu_p99_ms`: the same in processor time. `rss_mb`: most memory that the
process had when the engine had run; `rss_before_mb`: and before. `report_s`: the longest of the reports, in processor time: two
objectives with all trials, three with 3,000 trials on the front. Processor time is what counts on a machine with other work.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import io
import math
import pstats
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _report import finish
from rich.console import Console

from edgesearch.objectives import Store
from edgesearch.search.engine import Engine, PlainProgress
from edgesearch.search.foresight import ForesightProcess
from edgesearch.search.library._inputs import read_inputs
from edgesearch.search.processes import Job, JobResult
from edgesearch.search.proposals import Proposer
from edgesearch.search.report import front_csv, front_json, print_table, write_report
from edgesearch.search.study import (
    Home,
    Objective,
    StudyFile,
    StudyView,
    create_or_resume,
    hold_lease,
    open_read_only,
    open_storage,
    open_study,
    pareto_front,
    read_study,
)
from edgesearch.spaces import Candidate

#: The space of the bundled study of CIFAR-10 with a few more choices: 15,300 candidates of 405 networks to estimate.
SPACE: dict[str, Any] = {
    "students": ["cnn_small", "resnet20", "squeezenet1_1", "mobilenet_v2", "resnet18"],
    "width": [0.5, 0.75, 1.0],
    "input_size": [16, 24, 32],
    "stem": ["small"],
    "distillation": ["none", "logit"],
    "temperature": [2.0, 4.0, 6.0],
    "alpha": [0.3, 0.5, 0.7],
    "pruning": ["none", "one_step", "iterative"],
    "ratio": {"low": 0.2, "high": 0.9, "step": 0.1},
    "quantization": ["ptq", "qat"],
}
#: Trials on the front of the report with three objectives.
FRONT = 3000


def study(sampler: str, trials: int, students: list[str], side: list[int], targets: list[str]) -> StudyFile:
    tables = {
        "name": "engine_cost",
        "data": {"name": "digits"},
        "teacher": {"architecture": "resnet18", "input_size": 32},
        "space": {**SPACE, "students": students, "input_size": side, "pruning_target": targets},
        "constraints": {"min_accuracy": 0.6},
        "search": {"sampler": sampler, "trials": trials},
    }
    return StudyFile.parse(tables)


class NoOpPool:
    """Stages end at once, and are collected one look later, so that some always run while candidates are looked at.

    `cpu` and `wall` are the seconds that writing their artifacts took, `longest` is the longest time for which nobody asked for
    those that had ended.
    """

    waits_for_boards = False

    def __init__(self, store: Store, slots: int) -> None:
        self.slots = slots
        self._store, self._ended, self._earlier = store, list[JobResult](), list[JobResult]()
        self.cpu = self.wall = self.longest = 0.0
        self._asked = time.perf_counter()

    def submit(self, job: Job) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        kind, key = str(job.stage["kind"]), job.key
        self._store.put(kind, key, figures=figures(kind, job.stage, key), seconds=1.0, recipe={})
        self._ended.append(JobResult(key, "done", 1.0))
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def wait(self, timeout: float) -> list[JobResult]:
        if self._earlier or self._ended:
            self.longest = max(self.longest, time.perf_counter() - self._asked)
        if not self._earlier and not self._ended:
            time.sleep(timeout)
        elif not self._earlier and timeout:
            self._earlier, self._ended = self._ended, []
        ended, self._earlier, self._ended = self._earlier, self._ended, []
        self._asked = time.perf_counter()
        return ended

    def cancel(self, key: str) -> bool:
        return False

    def close(self) -> None:
        return


def chance(key: str) -> float:
    """0..1, from a stage's key."""
    return int(key[:8], 16) / 0xFFFFFFFF


def figures(kind: str, stage: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a stage of this kind might find: small networks are fast and less accurate, and luck decides the rest."""
    if kind != "measured":
        return {"accuracy": round(0.6 + 0.3 * chance(key), 4), "loss": 0.5, "epochs": 1}
    network = str(stage["inputs"]["network"]["inputs"])
    size = chance(hashlib.sha256(network.encode()).hexdigest())
    fps = 80.0 * math.exp(3.5 * (1 - size)) * (0.9 + 0.2 * chance(key[8:]))
    return {
        "accuracy": round(0.5 + 0.4 * math.sqrt(size) + 0.05 * chance(key), 4),
        "float_accuracy": round(0.55 + 0.4 * math.sqrt(size), 4),
        "fps": fps,
        "latency_ms": 1500.0 / fps,
        "latency_fps": fps / 1.5,
        "fps_error": 0.12,
        "size_bytes": 40_000 + 1_000_000 * size,
        "macs": 1e6 + 3e8 * size,
        "parameters": 40_000 + 1_000_000 * size,
        "conditions": {"runner": "vart_python", "throughput_bound": "compute"},
    }


class Meter(PlainProgress):
    """Notes when trials end."""

    def __init__(self, pool: NoOpPool) -> None:
        super().__init__(Console(file=io.StringIO(), width=150))
        self._pool = pool
        self.cpu: list[float] = []  # of the driver, when each trial ended

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        super().finished(number, candidate, metrics, failure)
        self.cpu.append(time.process_time() - self._pool.cpu)
        if len(self.cpu) % 1000 == 0:
            megabytes = psutil.Process().memory_info().rss >> 20
            print(f"{len(self.cpu)} trials, {self.cpu[-1]:.0f} s of processor time, {megabytes} MB", flush=True)


def watch_asks(asks: list[tuple[int, float, float]]) -> None:
    """Keep (trial, wall seconds, processor seconds) of every draw of a sampler."""
    draw: Callable[..., Any] = Proposer.proposals

    def watched(self: Proposer, number: int) -> Iterator[Any]:
        proposals = draw(self, number)
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            proposal = next(proposals, None)
            asks.append((number, time.perf_counter() - wall, time.process_time() - cpu))
            if proposal is None:
                return
            yield proposal

    Proposer.proposals = watched  # type: ignore[method-assign]


def run(home: Home, settings: StudyFile, trials: int, slots: int, in_driver: bool) -> dict[str, Any]:
    inputs = read_inputs(settings)
    store = Store(home.store)
    pool, asks = NoOpPool(store, slots), list[tuple[int, float, float]]()
    foresight = ForesightProcess(inputs.foresight)
    meter = Meter(pool)
    watch_asks(asks)
    database = open_storage(home.database)
    children = cpu_of_children()
    with hold_lease(database, settings.name, folder=home.root) as lease, closing(foresight):
        engine = Engine(
            study=create_or_resume(database, inputs.settings),
            settings=inputs.settings,
            conditions=inputs.conditions,
            estimator=inputs.estimator,
            store=store,
            pool=pool,
            progress=meter,
            logs=home.logs(settings.name),
            lease=lease,
            foresight=None if in_driver else foresight,
        )
        before = most_memory_mb()
        begun, cpu = time.perf_counter(), time.process_time()
        summary = engine.run(trials)
        wall = time.perf_counter() - begun
    ends = [cpu, *meter.cpu]
    spent = [1e3 * (after - before) for before, after in pairwise(ends)]
    window = spent[:1000][-min(200, max(1, trials // 5)) :]
    late = [ask for ask in asks if ask[0] >= trials - 1000]
    return {
        "trials": summary.finished,
        "driver_cpu_ms_per_trial_1000": round(statistics.median(window), 1),
        "driver_cpu_ms_per_trial_mean": round(statistics.mean(spent), 1),
        "ask_cpu_ms_per_trial_mean": round(1e3 * sum(ask[2] for ask in asks) / trials, 1),
        "seconds_10000": round(wall - pool.wall, 1) if trials >= 10_000 else None,
        "wall_s": round(wall, 1),
        "driver_cpu_s": round(meter.cpu[-1] - cpu, 1),
        "beside_cpu_s": round(cpu_of_children() - children, 1),
        "longest_wait_s": round(pool.longest, 2),
        "ask_p99_ms_10000": round(1e3 * float(np.percentile([ask[1] for ask in late], 99)), 1),
        "ask_cpu_p99_ms": round(1e3 * float(np.percentile([ask[2] for ask in late], 99)), 1),
        "rss_mb": most_memory_mb(),
        "rss_before_mb": before,
    }


def cpu_of_children() -> float:
    """Seconds of processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def most_memory_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def three_objectives(view: StudyView) -> StudyView:
    """The same trials scored by three objectives, FRONT of which no other beats in all."""
    objectives = (Objective("accuracy"), Objective("fps"), Objective("size_bytes", maximise=False))
    dice = np.random.default_rng(0)
    share = dice.random((len(view.records), 3))
    share /= np.linalg.norm(share, axis=1, keepdims=True)  # on a sphere none dominates another
    share[FRONT:] *= dice.uniform(0.3, 0.7, (max(len(view.records) - FRONT, 0), 1))  # well behind it
    records = []
    for record, (a, f, s) in zip(view.records, share.tolist(), strict=True):
        values = (a, 1000.0 * f, 1e6 * (1.0 - s) + 1.0)
        metrics = {**record.metrics, **{o.name: value for o, value in zip(objectives, values, strict=True)}}
        records.append(replace(record, objectives=objectives, values=values, metrics=metrics, violations={}))
    return replace(view, objectives=objectives, constraints={}, records=tuple(records))


def seconds(name: str, work: Callable[[], Any]) -> float:
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    spent = time.process_time() - cpu
    print(f"{name}: {spent:.2f} s of processor time, {time.perf_counter() - begun:.2f} s", flush=True)
    return spent


def read(home: Home) -> StudyView:
    return read_study(open_study(open_read_only(home.database), "engine_cost"))


def reports(home: Home) -> dict[str, float]:
    def tables(view: StudyView) -> None:
        front = pareto_front(view)
        print_table(view, front, Console(file=io.StringIO()))
        _ = front_csv(view, front), front_json(view, front)

    reading = seconds("reading the study", lambda: read(home))
    two, three = read(home), three_objectives(read(home))
    page = home.report("engine_cost")
    spent = {
        "report_2_objectives_s": seconds("report, two objectives", lambda: write_report(two, page)),
        "report_3_objectives_s": seconds("report, three objectives", lambda: write_report(three, page)),
    }
    print(f"{len(pareto_front(two))} and {len(pareto_front(three))} trials on the fronts", flush=True)
    fresh = read(home), three_objectives(read(home))
    pareto = max(seconds("tables, two objectives", lambda: tables(fresh[0])), seconds("three", lambda: tables(fresh[1])))
    found = {name: round(value, 2) for name, value in spent.items()}
    return {"read_s": round(reading, 2), **found, "report_s": max(found.values()), "pareto_s": round(pareto, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--students", nargs="+", default=SPACE["students"], help="of the space, for a quick look")
    parser.add_argument("--input-size", nargs="+", type=int, default=SPACE["input_size"], help="of the students")
    parser.add_argument("--pruning-target", nargs="+", default=["macs"], help="macs or fps, which takes longer to tell")
    parser.add_argument("--in-driver", action="store_true", help="look at networks in the driver, as with one worker")
    parser.add_argument("--slots", type=int, default=8, help="workers")
    parser.add_argument("--home", type=Path, help="keep the study here; default: a temporary folder")
    parser.add_argument("--only-report", action="store_true", help="of the study in --home")
    parser.add_argument("--profile", type=Path, help="write the engine's profile (cProfile) as text")
    arguments = parser.parse_args()
    settings = study(arguments.sampler, arguments.trials, arguments.students, arguments.input_size, arguments.pruning_target)
    with tempfile.TemporaryDirectory() if arguments.home is None else nullcontext(arguments.home) as folder:
        home = Home(Path(folder))
        home.prepare()
        found: dict[str, Any] = {}
        if not arguments.only_report:
            profile = cProfile.Profile()
            work: Callable[..., dict[str, Any]] = profile.runcall if arguments.profile else lambda call, *a: call(*a)
            found = work(run, home, settings, arguments.trials, arguments.slots, arguments.in_driver)
            if arguments.profile:
                with arguments.profile.open("w") as file:
                    for order in ("cumulative", "tottime"):
                        pstats.Stats(profile, stream=file).sort_stats(order).print_stats(70)
        found |= reports(home)
    finish({"benchmark": "engine_cost", "sampler": arguments.sampler, **found})


if __name__ == "__main__":
    main()
