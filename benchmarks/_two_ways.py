"""Trainings in two ways that take turns, each in a process of its own: images per second and memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import torch
from _report import finish

from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split
from edgesearch.objectives.training import Recipe, processor_name, train
from edgesearch.spaces import Student, build

SIDE, STEPS, EPOCHS = 32, 4, 4


def compare(
    script: str,
    text: str,
    cases: Sequence[tuple[str, int]],
    prepare: Callable[[bool, int], None],
    other: str,
    environment: Callable[[Mapping[str, str]], Mapping[str, str]] = dict,
) -> None:
    """The program of a benchmark: both ways of each case, network and batch, and a line of JSON.

    script: its file; text: what --help says. prepare: called in a process of its own with whether it trains in the other way,
    and its threads, before it trains. other: what the other way does, for a person. environment: makes that of its processes.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, batch, is_other, threads = json.loads(arguments.case)
        prepare(is_other, threads)
        print(json.dumps(measure(name, batch)))
        return
    found = []
    ways = os.environ, environment(os.environ)
    for pair in pairs(script, cases, ways, rounds=arguments.rounds, threads=arguments.threads):
        found.append(pair)
        print(pair.line(other), flush=True)
    finish(
        {
            "benchmark": Path(script).stem,
            "speed_ratio": round(geometric_mean(pair.gain for pair in found), 2),
            "least_speed_ratio": round(min(pair.gain for pair in found), 2),
            "peak_ratio": round(geometric_mean(pair.growth for pair in found), 2),
            "most_peak_ratio": round(max(pair.growth for pair in found), 2),
            "device": processor_name(torch.device("cpu")),
            "threads": arguments.threads,
        }
    )


@dataclass(frozen=True)
class Pair:
    """A network and its batch; the fastest round and the highest peak of memory, of the plain way and of the other."""

    name: str
    batch: int
    speeds: tuple[float, float]  # images per second
    peaks: tuple[float, float]  # bytes of the process

    @property
    def gain(self) -> float:
        return self.speeds[1] / self.speeds[0]

    @property
    def growth(self) -> float:
        return self.peaks[1] / self.peaks[0]

    def line(self, other: str) -> str:
        """What a person reads; `other` says what the other way does."""
        plain, changed = self.speeds
        return (
            f"{self.name}, batches of {self.batch}: {plain:.0f} images/s, {changed:.0f} where {other} ({self.gain:.2f}); "
            f"{self.peaks[0] / 1e6:.0f} and {self.peaks[1] / 1e6:.0f} MB"
        )


def measure(name: str, batch: int) -> dict[str, float]:
    """One training in this process: images a second of its best epoch, and bytes at its peak."""
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


def pairs(
    script: str, cases: Sequence[tuple[str, int]], ways: Sequence[Mapping[str, str]], *, rounds: int, threads: int
) -> Iterator[Pair]:
    """Both ways of each case, by processes of `script` with these environments; of each way the best of the rounds."""
    for name, batch in cases:
        speeds, peaks = [0.0, 0.0], [0.0, 0.0]
        for _ in range(rounds):
            for other in (False, True):
                command = [sys.executable, script, "--case", json.dumps([name, batch, other, threads])]
                ended = subprocess.run(command, capture_output=True, text=True, check=True, env=ways[other])
                found = json.loads(ended.stdout.splitlines()[-1])
                speeds[other] = max(speeds[other], found["images_per_second"])
                peaks[other] = max(peaks[other], found["peak"])
        yield Pair(name, batch, (speeds[0], speeds[1]), (peaks[0], peaks[1]))
