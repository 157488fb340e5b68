"""Kills at random moments: of a worker, of Ray's scheduler or its table, of the driver, of everything.

A driver that only lost a worker or its Ray goes on by itself; after other kills the same command is given again. In the end
the study is finished and compared with one that nobody killed: trials and front must be equal, candidate for candidate and
value for value. (With several workers that holds while candidates are drawn at random, in the first `startup_trials` of a
study; later ones depend on which trials happened to have ended.) A stage is lost if its artifact was whole before a kill and
is gone, or was written over, after it; a trial is a phantom if it is not complete in the end, or repeats a candidate.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from _kills import kill
from _quickstart import write_whole
from _report import finish

from edgesearch.objectives import Store
from edgesearch.search.study import StudyView, pareto_front, read_study

#: What is killed, in turn. The driver lives on after the first three.
VICTIMS = ("worker", "raylet", "gcs_server", "driver", "everything")


def command(home: Path, trials: int, workers: int) -> list[str]:
    study = write_whole(home.parent)
    base = [sys.executable, "-m", "edgesearch.search", "optimize", str(study), "--home", str(home)]
    return [*base, "--trials", str(trials), "--workers", str(workers)]


def run_to_end(home: Path, trials: int, workers: int) -> None:
    subprocess.run(command(home, trials, workers), check=True, stdout=subprocess.DEVNULL)


def artifacts(home: Path) -> dict[str, int]:
    """Whole artifacts -> the moment they were written, in nanoseconds."""
    if not (home / "store").exists():
        return {}
    store = Store(home / "store")
    found = {f"{kind}/{key}": (kind, key) for kind, key in store if store.get(kind, key) is not None}
    return {
        name: os.stat(home / "store" / "artifacts" / kind / key / "artifact.json").st_mtime_ns
        for name, (kind, key) in found.items()
    }


def view(home: Path) -> StudyView:
    storage = optuna.storages.RDBStorage(f"sqlite:///{home / 'studies.db'}")
    return read_study(optuna.load_study(study_name="quickstart", storage=storage))


def outcome(study: StudyView) -> list[tuple[str, tuple[float, ...] | None]]:
    return [(record.candidate_key, record.values) for record in study.records]


@dataclass
class Damage:
    """What the kills did."""

    kills: int = 0
    lost: int = 0


def harass(home: Path, arguments: argparse.Namespace, damage: Damage) -> None:
    """Run the study, again and again while its driver is killed, until there were enough kills or it is done."""
    dice = random.Random(arguments.seed)
    line = command(home, arguments.trials, arguments.workers)
    while damage.kills < arguments.kills:
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while damage.kills < arguments.kills:
                time.sleep(dice.uniform(8.0, 30.0))
                if child.poll() is not None:
                    print(f"the study ended (exit code {child.returncode}) before the next kill", flush=True)
                    return
                what = VICTIMS[damage.kills % len(VICTIMS)]
                before = artifacts(home)
                if not kill(psutil.Process(child.pid), what):
                    continue
                if what in ("driver", "everything"):
                    child.wait()
                after = artifacts(home)
                damage.kills += 1
                damage.lost += sum(after.get(name) != moment for name, moment in before.items())
                print(f"kill {damage.kills} ({what}): {len(before)} artifacts before, {len(after)} whole after", flush=True)
                if child.poll() is not None:
                    break
            else:
                child.send_signal(signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    damage = Damage()
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        print(f"{arguments.trials} trials without kills", flush=True)
        run_to_end(calm, arguments.trials, arguments.workers)
        harass(rough, arguments, damage)
        run_to_end(rough, arguments.trials, arguments.workers)
        a, b = view(calm), view(rough)
    keys = [record.candidate_key for record in b.records]
    failed = [record.failure for record in b.records if not record.is_complete]
    phantoms = len(failed) + len(keys) - len(set(keys))
    for failure in failed:
        print(f"not complete: {failure}", flush=True)
    fronts = [[(r.candidate_key, r.values) for r in pareto_front(study)] for study in (a, b)]
    figures = {
        "kills": damage.kills,
        "lost_stages": damage.lost,
        "phantom_trials": phantoms,
        "trials_equal": outcome(a) == outcome(b),
        "front_equal": fronts[0] == fronts[1],
        "trials": len(keys),
        "workers": arguments.workers,
    }
    finish({"benchmark": "crash", **figures})


if __name__ == "__main__":
    main()
