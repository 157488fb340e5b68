"""Images per second of trainings in a process that keeps the memory which a step frees, as stages do, beside one that does not.

Run: python benchmarks/kept_memory.py. Some minutes of --threads cores. Both take turns, each training in a process of its own;
of each the best of --rounds counts, since other work on a machine only ever slows one down. `peak_ratio` is of the most memory
that the processes took, interpreter and torch included. Images are noise, 32 x 32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import geometric_mean

import numpy as np
import torch
from _report import finish

from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split
from edgesearch.objectives.training import Recipe, processor_name, train
from edgesearch.search.engine import prepare_process
from edgesearch.spaces import Student, build

#: Network and batch.
CASES = [("resnet20", 128), ("vgg_small", 256), ("mobile_small", 128), ("staged 24k2 c2x96p c2x352p c2x352p max", 512)]
SIDE, STEPS, EPOCHS = 32, 4, 4


def measure(name: str, batch: int, keeps: bool, threads: int) -> dict[str, float]:
    """One training in this process: images a second of its best epoch, and bytes at its peak."""
    if keeps:
        prepare_process(threads)
    else:
        torch.set_num_threads(threads)
    dice = np.random.default_rng(0)
    images = dice.integers(0, 256, (STEPS * batch, SIDE, SIDE, 3), dtype=np.uint8)
    split = Split(images, np.arange(STEPS * batch) % 10)
    few = Split(images[:64], split.labels[:64])
    data = DataSet("noise", tuple("0123456789"), 3, (SIDE, SIDE), split, few, few, few, "", {})
    model = build(Student(architecture=name, input_size=SIDE), channels=3, classes=10)
    recipe = Recipe(epochs=EPOCHS, batch_size=batch, optimizer="sgd", augmentation="alternate_flip")
    training = train(model, data, recipe=recipe, input_size=SIDE, seed=0)
    best = min(epoch.seconds for epoch in training.history)
    return {"images_per_second": STEPS * batch / best, "peak": float(training.peak_bytes or 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*json.loads(arguments.case))))
        return
    speeds, peaks = [], []
    for name, batch in CASES:
        fastest, most = [0.0, 0.0], [0.0, 0.0]
        for _ in range(arguments.rounds):
            for keeps in (False, True):
                command = [sys.executable, __file__, "--case", json.dumps([name, batch, keeps, arguments.threads])]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
                fastest[keeps] = max(fastest[keeps], found["images_per_second"])
                most[keeps] = max(most[keeps], found["peak"])
        speeds.append(fastest[True] / fastest[False])
        peaks.append(most[True] / most[False])
        print(
            f"{name}, batches of {batch}: {fastest[False]:.0f} images/s, {fastest[True]:.0f} where memory is kept "
            f"({speeds[-1]:.2f}); {most[False] / 1e6:.0f} and {most[True] / 1e6:.0f} MB",
            flush=True,
        )
    finish(
        {
            "benchmark": "kept_memory",
            "speed_ratio": round(geometric_mean(speeds), 2),
            "least_speed_ratio": round(min(speeds), 2),
            "peak_ratio": round(geometric_mean(peaks), 2),
            "most_peak_ratio": round(max(peaks), 2),
            "device": processor_name(torch.device("cpu")),
            "threads": arguments.threads,
        }
    )


if __name__ == "__main__":
    main()
