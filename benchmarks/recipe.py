"""What the trainer's recipe gains over a thesis's: points of test accuracy after equal time on 5,000 images of CIFAR-10.

Run: python benchmarks/recipe.py [--minutes 15] [--seeds 3] [--runs FILE]. Needs the reference data. A small-stem ResNet-18 of
half the width. Ours is what `studies/cifar10.toml` says, with the usual moves of CIFAR-10; its epochs are as many as fit into
the time by that of a first one, which is part of the time. The thesis trains with Adam at a constant 1e-3, batches of 64 and
images as they are (`_plain_training.py`), for as long as ours took. Accuracy is the float network's on the 10,000 test
images.

The minutes are those of two cores, in time of the processor, so that other work on the machine takes little from a run: each
is a process with one thread, for twice as long, and two of them run side by side. With `--runs` each run that has ended is
kept in that file, and the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _trained
import numpy as np
import torch
from _plain_training import batches, step
from _report import finish
from torch import nn

from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split, prepare_tensor
from edgesearch.objectives.training import Recipe, evaluate, train
from edgesearch.search.processes import prepare_process
from edgesearch.spaces import Student, build

IMAGES = 5000
RECIPE = Recipe(
    batch_size=128,
    optimizer="muon",
    lr=0.02,
    weight_decay=0.05,
    schedule="linear",
    label_smoothing=0.2,
    augmentation="cutout",
    average_epochs=0.5,
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(Student(architecture="resnet18", width=0.5, input_size=32, stem="small"), channels=3, classes=10)


def cifar10(seed: int) -> DataSet:
    """5,000 training images of the seed's, and the test images."""
    images, labels = _trained.pixels("train_1"), _trained.labels("train")[:10_000]
    chosen = np.random.default_rng(seed).permutation(len(images))[:IMAGES]
    train_split, test = Split(images[chosen], labels[chosen]), Split(_trained.pixels("test"), _trained.labels("test"))
    few = Split(test.images[:256], test.labels[:256])
    return DataSet("cifar10", tuple("0123456789"), 3, (32, 32), train_split, few, few, test, "", {})


def accuracy(model: nn.Module, data: DataSet) -> float:
    return evaluate(model.eval(), data.test, input_size=32, normalisation=data.normalisation)


def thesis(data: DataSet, seed: int, seconds: float) -> tuple[nn.Module, int]:
    """The trained network, and its epochs."""
    model, ends = network(seed).train(), time.process_time() + seconds
    images = prepare_tensor(torch.from_numpy(data.train.images), 32, data.normalisation)
    optimizer, steps = torch.optim.Adam(model.parameters(), 1e-3), 0
    for part, labels in batches(images, torch.from_numpy(data.train.labels), 64, seed):
        step(model, optimizer, part, labels)
        steps += 1
        if time.process_time() >= ends:
            break
    return model, steps * 64 // IMAGES


def ours(data: DataSet, seed: int, seconds: float) -> tuple[nn.Module, int]:
    begun = time.process_time()
    train(network(seed), data, recipe=recipe_of(2), input_size=32, seed=seed, stop_after=1)
    first = time.process_time() - begun
    epochs = max(2, int((seconds - first) / first))
    model = network(seed)
    train(model, data, recipe=recipe_of(epochs), input_size=32, seed=seed)
    return model, epochs


def recipe_of(epochs: int) -> Recipe:
    return RECIPE.model_copy(update={"epochs": epochs})


RECIPES = {"ours": ours, "thesis": thesis}


def run(seed: int, name: str, minutes: float) -> dict[str, Any]:
    """One training, in a process of its own. It says what it took, too."""
    prepare_process(1)  # as a stage's process is
    data, begun = cifar10(seed), time.process_time()
    model, epochs = RECIPES[name](data, seed, 120 * minutes)
    took = (time.process_time() - begun) / 120
    return {"seed": seed, "recipe": name, "minutes": minutes, "accuracy": accuracy(model, data), "epochs": epochs, "took": took}


def pairs(seeds: int, minutes: float, file: Path | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For each seed our run, and one of the thesis's recipe that was given as long."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
    found = {(one["recipe"], one["seed"], one["minutes"]): one for one in map(json.loads, lines)}

    def pair(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        own = found.get(("ours", seed, minutes)) or kept_run(seed, "ours", minutes, file)
        return own, found.get(("thesis", seed, own["took"])) or kept_run(seed, "thesis", own["took"], file)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(pair, range(seeds)))


def kept_run(seed: int, name: str, minutes: float, file: Path | None) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(run, seed, name, minutes).result()
    print("seed {seed}  {recipe:<7} {accuracy:.2%} after {epochs} epochs, {took:.2f} minutes".format(**found), flush=True)
    if file is not None:
        with file.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(found) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    both = pairs(arguments.seeds, arguments.minutes, arguments.runs)
    gains = [100 * (own["accuracy"] - other["accuracy"]) for own, other in both]
    found = {"ours": [own for own, _ in both], "thesis": [other for _, other in both]}
    finish(
        {
            "benchmark": "recipe",
            "gain_points": round(statistics.median(gains), 2),
            "gains": [round(gain, 2) for gain in gains],
            **{f"accuracy_{name}": [round(one["accuracy"], 4) for one in its] for name, its in found.items()},
            **{f"epochs_{name}": [one["epochs"] for one in its] for name, its in found.items()},
            **{f"took_{name}": [round(one["took"], 2) for one in its] for name, its in found.items()},
            "minutes": arguments.minutes,
        }
    )


if __name__ == "__main__":
    main()
