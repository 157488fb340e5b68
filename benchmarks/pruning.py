"""Accuracy and FPS after structured pruning, by method and ratio, beside Torch-Pruning's own magnitude pruner.

Run: python benchmarks/pruning.py (bundled digits, minutes); --data cifar10 --root FOLDER for CIFAR-10, or any other source.
A network is trained once for each seed. Torch-Pruning takes the same share of every layer's channels, in multiples of the
granularity, at which the MACs are nearest to the ratio; the other methods remove the MACs that it did. All are fine-tuned for
as many epochs, of which iterative pruning spends half between its rounds. "iterative_fps" is told the time of the network that
"iterative" found, and reaches it where it likes: its MACs may be more.
Needs torch-pruning, which is among the development packages.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from _report import finish
from torch import nn

from edgesearch.board_eval import SimulatedBoard, find_board, lower
from edgesearch.objectives.data import DataSet, DataSettings, Split, load_data, prepare_tensor
from edgesearch.objectives.pruning import (
    PRUNERS,
    PruningTask,
    Sensitivity,
    layer_macs,
    measure_sensitivity,
    re_estimate_batch_norm,
)
from edgesearch.objectives.stages._clock import clock_of
from edgesearch.objectives.training import Recipe, evaluate, train
from edgesearch.spaces import Student, build

ROUNDS = 3  # of iterative pruning
HALVINGS = 12  # of the interval of Torch-Pruning's channel ratio


@dataclass(frozen=True)
class Bench:
    """What all prunings share."""

    data: DataSet
    student: Student
    granularity: int
    epochs: int
    lr: float
    images: int
    draws: int
    board: SimulatedBoard

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.data.channels, self.student.input_size, self.student.input_size

    def network(self) -> nn.Module:
        """Untrained."""
        return build(self.student, channels=self.data.channels, classes=len(self.data.classes))

    def train(self, model: nn.Module, *, epochs: int, lr: float, seed: int) -> None:
        """In place."""
        recipe = Recipe(epochs=epochs, lr=lr, warmup_epochs=min(1.0, epochs))
        train(model, self.data, recipe=recipe, input_size=self.student.input_size, seed=seed, device="cpu")

    def score(self, model: nn.Module, split: Split | None = None) -> float:
        """Accuracy on the first training images, or on a split."""
        split = split or Split(self.data.train.images[: self.images], self.data.train.labels[: self.images])
        return evaluate(model, split, input_size=self.student.input_size, normalisation=self.data.normalisation)

    def task(self, model: nn.Module, ratio: float, seed: int, **more: Any) -> PruningTask:
        """What a pruner of this program is given."""
        pixels = torch.from_numpy(self.data.train.images[-self.images :])
        images = prepare_tensor(pixels, self.student.input_size, self.data.normalisation)
        short = self.epochs // (2 * (ROUNDS - 1))
        return PruningTask(
            model=model,
            input_shape=self.shape,
            ratio=ratio,
            granularity=self.granularity,
            draws=self.draws,
            steps=ROUNDS,
            score=self.score,
            recalibrate=lambda network: re_estimate_batch_norm(network, images),
            finetune=lambda network, step: self.train(network, epochs=short, lr=self.lr, seed=seed + step + 1),
            seed=seed,
            chance=1 / len(self.data.classes),
            **more,
        )


def torch_pruning_to(model: nn.Module, bench: Bench, ratio: float) -> nn.Module:
    """Torch-Pruning's magnitude pruner (L2, its default), at the channel ratio whose MACs are nearest."""
    whole = sum(layer_macs(model, bench.shape).values())
    head = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]

    def at(share: float) -> nn.Module:
        pruned = copy.deepcopy(model)
        ignored = [module for one, module in zip(model.modules(), pruned.modules(), strict=True) if one is head]
        torch_pruning.pruner.BasePruner(
            pruned,
            torch.zeros(1, *bench.shape),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=ignored,
            round_to=bench.granularity,
        ).step()
        return pruned

    low, high = 0.0, 0.98
    found = []
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pruned = at(middle)
        left = sum(layer_macs(pruned, bench.shape).values())
        found.append((abs(left - (1 - ratio) * whole), pruned))
        low, high = (middle, high) if left > (1 - ratio) * whole else (low, middle)
    return min(found, key=lambda pair: pair[0])[1]


def prunings(model: nn.Module, bench: Bench, ratio: float, seed: int, known: Sensitivity) -> dict[str, Callable[[], nn.Module]]:
    """By method, what makes the pruned network, iterative's before the one that is told its time."""
    theirs = torch_pruning_to(model, bench, ratio)
    whole = sum(layer_macs(model, bench.shape).values())
    ratio = min(0.95, 1 - sum(layer_macs(theirs, bench.shape).values()) / whole)
    clock = clock_of(bench.board, bench.shape)
    made: dict[str, nn.Module] = {}

    def iterative() -> nn.Module:
        made["iterative"] = PRUNERS.find("iterative")(bench.task(model, ratio, seed, sensitivity=known)).model
        return made["iterative"]

    def iterative_fps() -> nn.Module:
        share = 1 - clock.exact(made["iterative"]) / clock.exact(model)
        timed = bench.task(model, share, seed, sensitivity=known, time=clock.exact, rough_time=clock.rough)
        return PRUNERS.find("iterative")(timed).model

    return {
        "torch_pruning": lambda: theirs,
        "one_step": lambda: PRUNERS.find("one_step")(bench.task(model, ratio, seed, sensitivity=known)).model,
        "iterative": iterative,
        "iterative_fps": iterative_fps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="a data source's name or import path")
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--train-images", type=int, default=None)
    parser.add_argument("--noise", type=float, default=None, help="0.3 for the digits, which are too easy without")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--input-size", type=int, default=None, help="8 for the digits, else 32")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--finetune-epochs", type=int, default=8)
    parser.add_argument("--granularity", type=int, default=4)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=256, help="on which networks are scored")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    digits = given.data == "digits"
    noise = given.noise if given.noise is not None else 0.3 if digits else 0.0
    data = load_data(DataSettings(name=given.data, root=given.root, noise=noise, train_images=given.train_images))
    student = Student(architecture=given.student, width=given.width, input_size=given.input_size or (8 if digits else 32))
    board = find_board("zcu104")
    assert isinstance(board, SimulatedBoard)
    bench = Bench(data, student, given.granularity, given.finetune_epochs, 1e-3, given.images, given.draws, board)
    started, before = time.perf_counter(), []
    rows: dict[tuple[float, str], list[dict[str, float]]] = {}
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        model = bench.network()
        bench.train(model, epochs=given.epochs, lr=3e-3, seed=seed)
        before.append(bench.score(model.eval(), data.test))
        known = measure_sensitivity(model, bench.shape, granularity=bench.granularity, score=bench.score, seed=seed)
        whole = sum(layer_macs(model, bench.shape).values())
        for ratio in given.ratios:
            for method, make in prunings(model, bench, ratio, seed, known).items():
                pruned = make()
                raw = bench.score(pruned.eval(), data.test)
                left = bench.epochs - (2 * (bench.epochs // 4) if method.startswith("iterative") else 0)
                bench.train(pruned, epochs=left, lr=bench.lr, seed=seed + 100)
                row = {
                    "accuracy": bench.score(pruned.eval(), data.test),
                    "accuracy_before_last_tuning": raw,
                    "fps": board.measure(lower(pruned, bench.shape, target=board.target)).throughput_fps,
                    "macs_removed": 1 - sum(layer_macs(pruned, bench.shape).values()) / whole,
                }
                rows.setdefault((ratio, method), []).append(row)
                print(
                    f"seed {seed}  {ratio:.0%}  {method:<14}",
                    {name: round(value, 4) for name, value in row.items()},
                    flush=True,
                )
    results = {}
    for (ratio, method), found in rows.items():
        mean = {name: statistics.fmean(row[name] for row in found) for name in found[0]}
        results[f"{method} {ratio:g}"] = {name: round(value, 4 if value < 100 else 1) for name, value in mean.items()}
    for name, mean in results.items():
        print(f"{name:<20} accuracy {mean['accuracy']:.2%}, {mean['macs_removed']:.1%} of MACs gone, {mean['fps']:,.0f} fps")
    finish(
        {
            "data": data.name,
            "student": student.name,
            "granularity": bench.granularity,
            "seeds": given.seeds,
            "test_images": len(data.test),
            "unpruned_accuracy": round(statistics.fmean(before), 4),
            "results": results,
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


if __name__ == "__main__":
    main()
