"""The bundled study, as a new user runs it: 100 trials through the command line.

Figures: seconds in all, seconds to the first finished trial, peak memory of all its processes together (resident, where a page
that processes share counts in each; and with such pages counted once), how many trials trained a student, the front.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import optuna
import psutil
from _report import finish

from edgesearch.search.study import StudyView, pareto_front, read_study


def memory_gb(process: psutil.Process) -> tuple[float, float]:
    """GiB of a process and all below it: resident, and proportional, which counts shared pages once."""
    resident = proportional = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            memory = member.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        resident, proportional = resident + memory.rss, proportional + memory.pss
    return resident / 2**30, proportional / 2**30


def run_study(home: Path, *arguments: str) -> tuple[float, float, float]:
    """(seconds, peak GiB resident, peak GiB proportional) of `edgesearch optimize quickstart`."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "edgesearch.search", "optimize", "quickstart", "--home", str(home), *arguments]
    child = subprocess.Popen(command)
    resident = proportional = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal resident, proportional
        process = psutil.Process(child.pid)
        while not done.wait(0.5):
            try:
                now = memory_gb(process)
            except psutil.NoSuchProcess:
                return
            resident, proportional = max(resident, now[0]), max(proportional, now[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    done.set()
    watcher.join()
    if code != 0:
        sys.exit(f"edgesearch ended with {code}")
    return time.perf_counter() - started, resident, proportional


def view(home: Path) -> StudyView:
    storage = optuna.storages.RDBStorage(f"sqlite:///{home / 'studies.db'}")
    return read_study(optuna.load_study(study_name="quickstart", storage=storage))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the study: of its proposals, splits stay the same")
    arguments = parser.parse_args()
    trials = arguments.trials
    with tempfile.TemporaryDirectory() as folder:
        print(f"running the quickstart study for {trials} trials in {folder}", flush=True)
        begun = time.time()
        seconds, resident, proportional = run_study(Path(folder), "--trials", str(trials), "--seed", str(arguments.seed))
        study = view(Path(folder))
    complete = [record for record in study.records if record.is_complete]
    first = min(record.finished.timestamp() for record in complete if record.finished is not None) - begun
    front = pareto_front(study)
    accuracies = [record.accuracy or 0.0 for record in front]
    fps = [record.fps or 0.0 for record in front]
    # Two standard errors of the difference of two accuracies on 400 images each, at the front's mean.
    mean = sum(accuracies) / len(accuracies)
    noise = 2 * math.sqrt(2 * mean * (1 - mean) / 400)
    finish(
        {
            "benchmark": "quickstart",
            "trials": len(complete),
            "seed": arguments.seed,
            "seconds": round(seconds, 1),
            "first_trial_seconds": round(first, 1),
            "peak_rss_gb": round(resident, 2),
            "peak_pss_gb": round(proportional, 2),
            "students_trained": sum("student" in record.stage_seconds for record in complete),
            "best_accuracy": round(max(accuracies), 4),
            "front_size": len(front),
            "front_fps_span": round(max(fps) / min(fps), 2),
            "front_accuracy_span": round(max(accuracies) - min(accuracies), 4),
            "accuracy_noise": round(noise, 4),
            "front_test_accuracy": {str(r.number): study.test_accuracy.get(r.number) for r in front},
        }
    )


if __name__ == "__main__":
    main()
