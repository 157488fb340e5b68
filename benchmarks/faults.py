"""Kills at random moments: of a worker, a stage's process, what these are forked from, Ray's scheduler or its table, the
database's server, the driver, and all of them.

A study of fixed candidates is run by two workers or more, its trials in a PostgreSQL server of its own. What is killed
(SIGKILL) is drawn with the moment; the server is started again after a moment, and a driver that is gone is started again with
the same command. A study that ends before there were enough kills is followed by another of another seed. In the end every
study is finished and compared with one that nobody killed.

`lost_stages`: artifacts that were whole before a kill and are gone, or were written over, after it; and in the end those that
differ from the unkilled run's in figures or tensors, and trials that are missing, doubled, not complete, or have other values.
`lost_training_s`: the longest that a stage had run since its last checkpoint when it was killed, which is done again.
`restart_s`: the longest from a kill to the next begin of a stage, where one was left to begin; for the server's kills to the
driver's next sign of life in the database. On a machine that is busy with other work both are long. `never_restarted`: kills
after which nothing began any more, or the driver ended in failure; `restart_s` is null then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from _kills import kill
from _report import finish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))

from _databases import PostgreSql, running_postgresql

from edgesearch.objectives import Store
from edgesearch.search.study import Record, open_storage, open_study, read_study
from edgesearch.search.study._lease import _holder

#: What is killed. The driver lives on after all but the last two, and is started again after them.
VICTIMS = ("worker", "stage", "fork_server", "raylet", "gcs_server", "database", "driver", "everything")
#: Figures that tell of the run that made an artifact: how long it took, the epochs since its checkpoint, and its memory.
_OF_THE_RUN = ("seconds", "history", "predicted_bytes", "peak_bytes")
#: Seconds after which nothing is expected to begin any more.
_HOPELESS = 300.0
STUDY: dict[str, Any] = {
    "data": {"name": "digits", "noise": 0.1, "validation_images": 400, "calibration_images": 100},
    "teacher": {"architecture": "cnn_small", "input_size": 8, "width": 2.0, "recipe": {"epochs": 16}},
    "finetune": {"epochs": 2},
    "qat": {"epochs": 1},
    "prune": {"draws": 4, "score_images": 256, "recalibration_images": 256},
}


def candidates(count: int) -> list[dict[str, Any]]:
    """Students of two kinds and several widths, by themselves and taught; pruned and quantized in turn."""
    found = []
    for number in range(count):
        kind, width = ("cnn_tiny", "cnn_small")[number % 2], (0.5, 1.0, 2.0)[number // 2 % 3]
        candidate: dict[str, Any] = {"student": {"architecture": kind, "width": width, "input_size": 8}}
        if number // 6 % 2:
            candidate["distillation"] = {"kind": "logit"}
        if number // 12 % 2:
            candidate["pruning"] = {"method": "one_step", "ratio": 0.4, "granularity": 8}
        if number // 24 % 2:
            candidate["quantization"] = {"method": "qat"}
        found.append(candidate)
    return found


@dataclass(frozen=True)
class Run:
    """A study in a home of its own."""

    home: Path
    name: str
    url: str
    arguments: argparse.Namespace
    seed: int

    def command(self) -> list[str]:
        self.home.mkdir(exist_ok=True)
        file = self.home / "study.toml"
        epochs = self.arguments.epochs
        tables = {"name": self.name, "seed": self.seed, **STUDY, "train": {"epochs": epochs, "lr": 1e-3, "batch_size": 64}}
        file.write_text(toml({**tables, "candidates": candidates(self.arguments.trials)}))
        line = [sys.executable, "-m", "edgesearch.search", "optimize", str(file), "--home", str(self.home)]
        return [*line, "--workers", str(self.arguments.workers), "--storage", self.url]

    def finish(self) -> None:
        subprocess.run(self.command(), check=True, stdout=subprocess.DEVNULL)

    def records(self) -> tuple[Record, ...]:
        storage = open_storage(self.url)
        try:
            return read_study(open_study(storage, self.name)).records
        finally:
            storage.engine.dispose()

    def artifacts(self) -> dict[str, int]:
        """Whole artifacts -> the moment they were written, in nanoseconds."""
        root = self.home / "store"
        if not root.exists():
            return {}
        store = Store(root)
        whole = [(kind, key) for kind, key in store if store.get(kind, key) is not None]
        return {f"{k}/{key}": (root / "artifacts" / k / key / "artifact.json").stat().st_mtime_ns for k, key in whole}

    def contents(self) -> dict[str, tuple[str, str]]:
        """Artifact -> its figures, and the checksums of its tensors."""
        found = {}
        for path in (self.home / "store" / "artifacts").glob("*/*/artifact.json"):
            content = json.loads(path.read_text())
            figures = {name: value for name, value in content["figures"].items() if name not in _OF_THE_RUN}
            found[f"{content['kind']}/{content['key']}"] = (json.dumps(figures), json.dumps(content["files"]))
        return found

    def begun(self) -> Counter[str]:
        """Attempts at stages that were begun, by the stage's key: each writes a line into its log."""
        found: Counter[str] = Counter()
        for log in (self.home / "logs" / self.name).glob("*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if " in process " in line and len(words := line.split()) == 7:
                    found[words[3]] += 1
        return found

    def unsaved(self) -> list[float]:
        """Seconds since each stage that runs began, or wrote its last checkpoint."""
        found = []
        for log in (self.home / "logs" / self.name).glob("*.log"):
            lines = [line.split() for line in log.read_text(errors="replace").splitlines()]
            begins = [i for i, words in enumerate(lines) if words[4:6] == ["in", "process"]]
            if not begins or any(words[:2] == ["done", "in"] for words in lines[begins[-1] :]):
                continue
            words = lines[begins[-1]]
            if psutil.pid_exists(int(words[6])):
                checkpoint = self.home / "store" / "checkpoints" / words[3] / "last.safetensors"
                begin = time.mktime(time.strptime(" ".join(words[:2]), "%Y-%m-%d %H:%M:%S"))
                with contextlib.suppress(FileNotFoundError):
                    begin = max(begin, checkpoint.stat().st_mtime)
                found.append(time.time() - begin)
        return found


def toml(tables: dict[str, Any]) -> str:
    """Tables of JSON values as TOML: inline tables are enough."""

    def value(content: Any) -> str:
        if isinstance(content, dict):
            return "{" + ", ".join(f"{name} = {value(entry)}" for name, entry in content.items()) + "}"
        if isinstance(content, list):
            return "[" + ", ".join(map(value, content)) + "]"
        return json.dumps(content)

    return "\n".join(f"{name} = {value(content)}" for name, content in tables.items()) + "\n"


@dataclass
class Damage:
    """What the kills did."""

    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    unsaved: list[float] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    never: int = 0


def kill_any(driver: psutil.Process, what: str, server: PostgreSql) -> bool:
    """Kill it, the server by itself or with everything; returns whether there was something to kill."""
    found = what == "database" or kill(driver, what)
    if what in ("database", "everything"):
        server.kill()
    return found


def heard(run: Run) -> float:
    """Seconds since the driver's last sign of life in the database; infinite where nobody holds the study."""
    storage = open_storage(run.url)
    try:
        with storage.engine.connect() as connection:
            holder = _holder(connection, run.name)
        return float("inf") if holder is None else holder.age
    finally:
        storage.engine.dispose()


def until(condition: Callable[[], bool], child: subprocess.Popen[bytes], since: float | None = None) -> float | None:
    """Seconds from `since` (None: from now) until the condition holds; None where the driver ended well first, infinite where
    it ended otherwise, or the condition never held.
    """
    begun = time.monotonic() if since is None else since
    while time.monotonic() - begun < _HOPELESS and child.poll() is None:
        if condition():
            return time.monotonic() - begun
        time.sleep(0.2)
    return None if child.poll() == 0 else math.inf


def strike(run: Run, what: str, child: subprocess.Popen[bytes], server: PostgreSql, damage: Damage) -> subprocess.Popen[bytes]:
    """One kill; returns the driver that runs then."""
    before, begun, unsaved, killed = run.artifacts(), run.begun(), run.unsaved(), time.monotonic()
    if not kill_any(psutil.Process(child.pid), what, server):
        return child
    damage.kills[what] += 1
    if what != "database":
        damage.unsaved += unsaved
    restarted: float | None = None
    if what in ("database", "everything"):
        time.sleep(1.0)
        server.start()
    if what in ("driver", "everything"):
        child.wait()
        child = subprocess.Popen(run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if what == "database":
        restarted = until(lambda: heard(run) < time.monotonic() - killed, child, killed)
    elif unsaved or what in ("driver", "everything"):
        restarted = until(lambda: run.begun().total() > begun.total(), child, killed)
    after = run.artifacts()
    lost = [name for name, moment in before.items() if after.get(name) != moment]
    damage.lost += len(lost)
    damage.never += restarted == math.inf
    damage.restarts += [] if restarted in (None, math.inf) else [restarted]
    age = f"{max(unsaved):.0f} s since a checkpoint" if unsaved and what != "database" else "nothing interrupted"
    again = "nothing left to begin" if restarted is None else f"running again after {restarted:.1f} s"  # "inf": never
    print(f"kill {damage.kills.total()} ({what}): {len(before)} artifacts, {len(lost)} lost; {age}; {again}", flush=True)
    return child


def harass(run: Run, arguments: argparse.Namespace, server: PostgreSql, damage: Damage, dice: random.Random) -> None:
    """Run the study until there were enough kills or it is done."""
    child = subprocess.Popen(run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: bool(run.begun()), child)
        while damage.kills.total() < arguments.kills:
            time.sleep(dice.uniform(*arguments.pause))
            if child.poll() is not None:
                print(f"the study ended (exit code {child.returncode}) before the next kill", flush=True)
                return
            child = strike(run, dice.choice(VICTIMS), child, server, damage)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait()


def differences(calm: Run, rough: Run) -> int:
    """Stages and trials of an unkilled run that the other has not, or otherwise."""
    stages, others = calm.contents(), rough.contents()
    different = {name for name in stages.keys() | others.keys() if stages.get(name) != others.get(name)}
    trials, theirs = outcome(calm.records()), outcome(rough.records())
    for name in sorted(different):
        print(f"not as in the unkilled run: {name}", flush=True)
    wrong = sum(((Counter(trials) - Counter(theirs)) + (Counter(theirs) - Counter(trials))).values())
    print(f"{len(stages)} artifacts, {len(different)} different; {len(trials)} trials, {wrong} different", flush=True)
    return len(different) + wrong


def outcome(records: Iterable[Record]) -> list[tuple[str, str, tuple[float, ...] | None]]:
    return [(record.candidate_key, record.state, record.values) for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 15.0), help="seconds between two kills, drawn from these")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    damage, dice, differ, rounds = Damage(), random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder, running_postgresql(durable=True) as server:
        while damage.kills.total() < arguments.kills:
            rounds += 1
            seed = arguments.seed + rounds
            rough = Run(Path(folder) / f"rough{rounds}", f"rough{rounds}", server.url, arguments, seed)
            calm = Run(Path(folder) / f"calm{rounds}", f"calm{rounds}", server.url, arguments, seed)
            harass(rough, arguments, server, damage, dice)
            rough.finish()
            calm.finish()
            differ += differences(calm, rough)
    figures = {
        "kills": damage.kills.total(),
        "lost_stages": damage.lost + differ,
        "lost_training_s": round(max(damage.unsaved, default=0.0), 1),
        "restart_s": None if damage.never else round(max(damage.restarts, default=0.0), 1),
        "never_restarted": damage.never,
        "restart_median_s": round(sorted(damage.restarts)[len(damage.restarts) // 2], 1) if damage.restarts else None,
        "by_victim": dict(damage.kills),
        "store_equal": differ == 0,
        "workers": arguments.workers,
        "studies": rounds,
    }
    finish({"benchmark": "faults", **figures})


if __name__ == "__main__":
    main()
