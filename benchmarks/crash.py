"""Kills at random moments: of the driver, of a worker, of everything. Then the study is finished and compared.

With one worker the study's trials and its front must equal, candidate for candidate and value for value, those of a run that
nobody killed. A stage is lost if its artifact was whole before a kill and was computed again after it; a trial is a phantom
if it is not complete in the end, or repeats a candidate.
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
from pathlib import Path

import optuna
import psutil
from _report import finish

from edgesearch.objectives import Store
from edgesearch.search.study import StudyView, pareto_front, read_study


def command(home: Path, trials: int) -> list[str]:
    base = [sys.executable, "-m", "edgesearch.search", "optimize", "quickstart", "--home", str(home)]
    return [*base, "--trials", str(trials), "--workers", "1"]


def run_to_end(home: Path, trials: int) -> None:
    subprocess.run(command(home, trials), check=True, stdout=subprocess.DEVNULL)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "ray::" in " ".join(child.cmdline()[:1]):
                found.append(child)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def kill(process: psutil.Process, what: str) -> None:
    family = process.children(recursive=True)
    victims = {"driver": [process], "worker": workers_of(process), "everything": [process, *family]}[what]
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    if what != "worker":  # a machine that lost its driver: what Ray started must go by itself
        psutil.wait_procs(family, timeout=30)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        print(f"{arguments.trials} trials without kills", flush=True)
        run_to_end(calm, arguments.trials)
        kills, lost = 0, 0
        while kills < arguments.kills:
            what = ("driver", "worker", "everything")[kills % 3]
            child = subprocess.Popen(command(rough, arguments.trials), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(dice.uniform(8.0, 30.0))
            if child.poll() is not None:
                print("the study finished before the next kill", flush=True)
                break
            before = artifacts(rough)
            kill(psutil.Process(child.pid), what)
            kills += 1
            if what == "worker":
                time.sleep(dice.uniform(1.0, 3.0))
                kill(psutil.Process(child.pid), "driver")
            child.wait()
            after = artifacts(rough)
            lost += sum(after.get(name) != moment for name, moment in before.items())
            print(f"kill {kills} ({what}): {len(before)} artifacts before, {len(after)} whole after", flush=True)
        run_to_end(rough, arguments.trials)
        a, b = view(calm), view(rough)
        keys = [record.candidate_key for record in b.records]
        phantoms = sum(not record.is_complete for record in b.records) + len(keys) - len(set(keys))
        equal = outcome(a) == outcome(b) and [r.number for r in pareto_front(a)] == [r.number for r in pareto_front(b)]
    figures = {"kills": kills, "lost_stages": lost, "phantom_trials": phantoms, "front_equal": equal, "trials": len(keys)}
    finish({"benchmark": "crash", **figures})


if __name__ == "__main__":
    main()
