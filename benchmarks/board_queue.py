"""One board that serves many trainers: a real sshd on loopback, and on it the program for boards on a stand-in of VART.

The engine, the queue, the pushing, the program on the board and its comparison with our integers are the real ones. Trainers
are not: a stage that computes takes a random time, asleep, and its result comes from a store that was filled before. The DPU
of the board takes the simulated time, asleep too, and the stand-in computes the logits, which costs more than a board would
need. While jobs are on the board its sshd is killed and comes back.

`board_seconds_per_candidate`: seconds for which a program held the board (its lock, seen in /proc/locks), of all jobs, those
that were killed included. `overlap`: the share of that time in which another job was on the board beside it, pushing its files
or waiting with them for its turn. `trainers_busy`: the share of their time in which trainers had stages, until the last was
done. `lost`: trials that are not complete in the end, and measurements that were made again after they were done.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import finish
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "board_eval"))

from _sshd import LoopbackBoard, loopback_board

from edgesearch.board_eval import BoardPool, CompiledXmodel, write_xmodel
from edgesearch.objectives import Stage, Store, compiled_content, load_graph
from edgesearch.search import Study, StudyFile
from edgesearch.search.engine import PlainProgress, StageRunner, run_stages
from edgesearch.search.library._run import Resources, run_study
from edgesearch.search.processes import ChildPool, Job, JobResult
from edgesearch.search.study import Home, pareto_front

STANDIN = Path(__file__).parents[1] / "tests" / "board_eval" / "runner" / "standin"
STUDY: dict[str, Any] = {
    "name": "board_queue",
    "board_images": 1000,
    "data": {
        "name": "digits",
        "train_images": 300,
        "validation_images": 1000,
        "calibration_images": 50,
        "test_images": 100,
    },
    "train": {"epochs": 1},
}
#: How often the board is looked at.
_GLANCE_S = 0.02


def study_of(trials: int, **more: Any) -> StudyFile:
    """A study of as many networks, none like another."""
    students = [{"architecture": "cnn_tiny", "input_size": 8, "width": round(0.25 + 0.125 * i, 3)} for i in range(trials)]
    return StudyFile.parse({**STUDY, **more, "candidates": [{"student": student} for student in students]})


def fill_store(home: Home, trials: int, sources: Path) -> Store:
    """Train, quantize and compile every network, so that trainers only have to wait; their files for the stand-in."""
    study = Study.open(study_of(trials), home.root)
    study.optimize(trials, workers=0)
    store, pool = Store(home.store), ChildPool()
    runner = StageRunner(store=store, pool=pool, data=study.settings.data, logs=home.logs("fill"), note=print)
    compiled = [study.inputs.plan(candidate, last="compiled") for candidate in study.settings.candidates]
    failed = [end.failure for end in run_stages(runner, compiled) if end.failure]
    pool.close()
    assert not failed, failed
    sources.mkdir()
    for stage in compiled:
        artifact, network = store.get(stage.kind, stage.key), store.get("quantized", stage.inputs["network"].key)
        assert artifact is not None
        assert network is not None
        path = sources / "compiled.xmodel"
        path.write_bytes(compiled_content(artifact))
        write_xmodel(load_graph(network), sources / f"{CompiledXmodel.read(path).sha256}.xmodel")
    return store


class Trainers:
    """A pool whose stages wait, and take what they should have made from a full store; jobs on a board are real."""

    waits_for_boards = False

    def __init__(self, slots: int, full: Store, seed: int, seconds: float, places: int) -> None:
        self.slots = slots
        self._full, self._dice, self._seconds = full, random.Random(seed), seconds
        self._asleep: list[tuple[float, float, Job]] = []  # when it ends, its length, the job
        self._lanes = [ChildPool() for _ in range(places)]
        self._in_lane: dict[str, ChildPool] = {}
        self.slept, self.begun, self.ended = 0.0, 0.0, 0.0
        self.measured: Counter[str] = Counter()  # jobs on the board that were done, by their key

    def submit(self, job: Job) -> None:
        kind = str(job.stage["kind"])
        if job.board_name or not self._full.has(kind, job.key):
            lane = next(lane for lane in self._lanes if lane not in self._in_lane.values())
            self._in_lane[job.key] = lane
            lane.submit(job)
            return
        self.begun = self.begun or time.monotonic()
        length = self._dice.expovariate(1 / self._seconds)
        self._asleep.append((time.monotonic() + length, length, job))

    def wait(self, timeout: float) -> list[JobResult]:
        deadline = time.monotonic() + timeout
        while True:
            ended = [self._wake(*sleeper) for sleeper in self._asleep if sleeper[0] <= time.monotonic()]
            self._asleep = [sleeper for sleeper in self._asleep if sleeper[2].key not in {result.key for result in ended}]
            for key, lane in list(self._in_lane.items()):
                for result in lane.wait(0.0):
                    del self._in_lane[key]
                    self.measured[key] += result.outcome == "done"
                    ended.append(result)
            if ended or time.monotonic() >= deadline:
                return ended
            time.sleep(0.01)

    def _wake(self, end: float, length: float, job: Job) -> JobResult:
        kind = str(job.stage["kind"])
        made = self._full.get(kind, job.key)
        assert made is not None
        names = [path.stem for path in made.path.glob("*.safetensors")]
        tensors = {name: made.tensors(name) for name in names}
        Store(Path(job.store)).put(
            kind, job.key, figures=made.figures, seconds=length, recipe=made.recipe, tensors=tensors, made_by=made.made_by
        )
        self.slept += length
        self.ended = time.monotonic()
        return JobResult(job.key, "done", length)

    def cancel(self, key: str) -> bool:
        return key in self._in_lane and self._in_lane[key].cancel(key)

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()


@dataclass
class Watch:
    """Looks at the board, and kills its sshd now and then while a job holds it."""

    board: LoopbackBoard
    kills: int
    seed: int
    held: float = 0.0
    shared: float = 0.0
    killed: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        dice = random.Random(self.seed)
        next_kill = time.monotonic() + dice.uniform(10, 25)
        before = time.monotonic()
        while not self.ended.wait(_GLANCE_S):
            now = time.monotonic()
            passed, before = now - before, now
            if not self._is_held():
                continue
            self.held += passed
            self.shared += passed * (len(list(self.board.folder.glob("edgesearch-job.*"))) > 1)
            if self.killed < self.kills and now > next_kill:
                self.killed += 1
                self.board.stop()
                time.sleep(1.0)
                self.board.start()
                print(f"kill {self.killed}: the board's sshd and its connections", flush=True)
                before, next_kill = time.monotonic(), time.monotonic() + dice.uniform(15, 35)

    def _is_held(self) -> bool:
        inodes = {str(path.stat().st_ino) for path in self.board.folder.glob("*lock*") if path.is_file()}
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(words[1] == "FLOCK" and words[5].rpartition(":")[2] in inodes for words in lines if len(words) > 5)


@dataclass(frozen=True)
class Given(Resources):
    """Resources with a pool of the benchmark's own."""

    trainers: Trainers | None = None

    def pool(self, boards: BoardPool | None) -> Trainers:
        assert self.trainers is not None
        return self.trainers


def measured_artifacts(stages: list[Stage], store: Store) -> list[Any]:
    return [artifact for stage in stages if (artifact := store.get(stage.kind, stage.key)) is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--trainers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0, help="mean length of a stage that trains (four a candidate)")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(f"{arguments.trials} networks are trained and compiled beforehand", flush=True)
        full = fill_store(Home(root / "full"), arguments.trials, root / "sources")
        path = ":".join([str(STANDIN), *[entry for entry in sys.path if entry]])
        environment = {
            "PYTHONPATH": path,
            "PATH": f"{STANDIN / 'bin'}:/usr/bin:/bin",
            "VART_STANDIN_SOURCES": str(root / "sources"),
            "OMP_NUM_THREADS": "1",
        }
        (root / "board").mkdir()
        with loopback_board(root / "board", environment) as board:
            os.environ["EDGESEARCH_BOARDS"] = str(
                board.boards_file(python=sys.executable, seconds=2.0, timeout_s=300.0, runner="python")
            )
            figures = measure(arguments, root, board, full)
    finish({"benchmark": "board_queue", **figures})


def measure(arguments: argparse.Namespace, root: Path, board: LoopbackBoard, full: Store) -> dict[str, Any]:
    home = Home(root / "home")
    settings = study_of(arguments.trials, score="board", boards=["lab"])
    study = Study.open(settings, home.root)
    trainers = Trainers(arguments.trainers, full, arguments.seed, arguments.seconds, places=2)
    watch = Watch(board, arguments.kills, arguments.seed)
    thread = threading.Thread(target=watch.run)
    thread.start()
    begun = time.monotonic()
    try:
        run_study(
            study.inputs,
            home,
            None,
            trials=arguments.trials,
            resources=Given(trainers=trainers),
            progress=PlainProgress(Console(width=150)),
            retry_failed=False,
        )
    finally:
        watch.ended.set()
        thread.join()
    wall = time.monotonic() - begun
    records = study.records()
    complete = [record for record in records if record.is_complete and record.measured_by]
    again = sum(count - 1 for key, count in trainers.measured.items() if count > 1)
    on_board = [study.inputs.plan(record.candidate, last="on_board") for record in complete]
    images = [artifact.figures["board_images"] for artifact in measured_artifacts(on_board, Store(home.store))]
    return {
        "candidates": len(complete),
        "trainers": arguments.trainers,
        "images": min(images),
        "board_seconds_per_candidate": round(watch.held / len(complete), 2),
        "overlap": round(watch.shared / watch.held, 3),
        "board_busy": round(watch.held / wall, 3),
        "trainers_busy": round(trainers.slept / (arguments.trainers * (trainers.ended - trainers.begun)), 3),
        "kills": watch.killed,
        "jobs_lost_by_the_board": sum(len(record.board_faults) for record in records),
        "lost": len(records) - len(complete) + again,
        "logits_equal": sum(record.accuracy_of == "integers" for record in complete),
        "front": len(pareto_front(study.view())),
        "left_on_the_board": len(board.left_behind()),
        "seconds": round(wall, 1),
    }


if __name__ == "__main__":
    main()
