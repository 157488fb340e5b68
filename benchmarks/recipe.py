"""What the trainer's recipe gains over a thesis's: points of test accuracy after equal time on 5,000 images of CIFAR-10.

Run: python benchmarks/recipe.py [--minutes 15] [--seeds 3]. Needs the reference data. A small-stem ResNet-18 of half the width.
The thesis trains with Adam at a constant 1e-3, batches of 64 and images as they are (`_plain_training.py`). Ours is what
`studies/cifar10.toml` says, with the usual moves of CIFAR-10; its epochs are as many as fit into the time by the seconds of a
first one, which is part of the time. Accuracy is the float network's on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import statistics
import time

import _trained
import numpy as np
import torch
from _plain_training import batches, step
from _report import finish
from torch import nn

from edgesearch.objectives import DataSet
from edgesearch.objectives.data import Split, prepare_tensor
from edgesearch.objectives.training import Recipe, evaluate, train
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


def thesis(data: DataSet, seed: int, seconds: float) -> tuple[float, int]:
    """Test accuracy, and epochs."""
    model, ends = network(seed).train(), time.perf_counter() + seconds
    images = prepare_tensor(torch.from_numpy(data.train.images), 32, data.normalisation)
    optimizer, steps = torch.optim.Adam(model.parameters(), 1e-3), 0
    for part, labels in batches(images, torch.from_numpy(data.train.labels), 64, seed):
        step(model, optimizer, part, labels)
        steps += 1
        if time.perf_counter() >= ends:
            break
    return accuracy(model, data), steps * 64 // IMAGES


def ours(data: DataSet, seed: int, seconds: float) -> tuple[float, int]:
    begun = time.perf_counter()
    probe = train(network(seed), data, recipe=recipe_of(2), input_size=32, seed=seed, stop_after=1).history[0].seconds
    epochs = max(2, int((seconds - (time.perf_counter() - begun)) / probe))
    model = network(seed)
    train(model, data, recipe=recipe_of(epochs), input_size=32, seed=seed)
    return accuracy(model, data), epochs


def recipe_of(epochs: int) -> Recipe:
    return RECIPE.model_copy(update={"epochs": epochs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, int]]] = {"thesis": [], "ours": []}
    for seed in range(arguments.seeds):
        data = cifar10(seed)
        for name, recipe in (("thesis", thesis), ("ours", ours)):
            found[name].append(recipe(data, seed, 60 * arguments.minutes))
            print(f"seed {seed}  {name:<7} {found[name][-1][0]:.2%} after {found[name][-1][1]} epochs", flush=True)
    gains = [100 * (own[0] - other[0]) for own, other in zip(found["ours"], found["thesis"], strict=True)]
    finish(
        {
            "benchmark": "recipe",
            "gain_points": round(statistics.median(gains), 2),
            "gains": [round(gain, 2) for gain in gains],
            **{f"accuracy_{name}": [round(value, 4) for value, _ in runs] for name, runs in found.items()},
            **{f"epochs_{name}": [epochs for _, epochs in runs] for name, runs in found.items()},
            "minutes": arguments.minutes,
            "threads": torch.get_num_threads(),
        }
    )


if __name__ == "__main__":
    main()
