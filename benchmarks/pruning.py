"""Accuracy and FPS after structured pruning, by method and ratio, beside Torch-Pruning's own magnitude pruner.

Run: python benchmarks/pruning.py (bundled digits: a residual, a plain and a mobile network); --data cifar10 --root FOLDER for
CIFAR-10, or any other source.
A network is trained once for each student and seed. Torch-Pruning takes the same share of every layer's channels, in multiples
of the granularity, at which the MACs are nearest to the ratio; the other methods remove the MACs that it did. All are then
fine-tuned for as many epochs, of which iterative pruning spends, as in a study, a part between its rounds. "iterative_fps" is
told the time of the network that "iterative" found, and reaches it where it likes: its MACs may be more; "ahead" says by how
many points it is more accurate. Accuracy is that on all images that no training saw; "behind" says by how many points of it a
method is behind Torch-Pruning. Both have the standard error of the seeds' differences.
Needs torch-pruning, which is among the development packages.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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

#: In the order in which they are made: the last is told the time of the one before it.
METHODS = ("torch_pruning", "one_step", "iterative", "iterative_fps")
#: What is told in points: behind Torch-Pruning, and ahead of pruning by the MACs.
GAINS = ("behind", "ahead")
ROUNDS = 3  # of iterative pruning
#: Students for images of the digits' size, and for larger ones.
SMALL = ("resnet8", "staged 16 c2x32p c2x64p max", "staged 16 i1x16e1 i2x24e4/2 i2x32e4/2")
LARGE = ("resnet20", "staged 32 c2x64p c2x128p max", "mobile_small")
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
    spent: list[int] = field(default_factory=list)  # epochs between the rounds of the network that was pruned last

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.data.channels, self.student.input_size, self.student.input_size

    def network(self) -> nn.Module:
        """Untrained."""
        return build(self.student, channels=self.data.channels, classes=len(self.data.classes))

    def train(self, model: nn.Module, *, epochs: int, lr: float, seed: int) -> None:
        """In place."""
        recipe = Recipe(epochs=epochs, lr=lr, warmup_epochs=min(1.0, epochs / self.epochs))  # shared, as in a study
        train(model, self.data, recipe=recipe, input_size=self.student.input_size, seed=seed, device="cpu")

    @property
    def short(self) -> int:
        """Epochs between two rounds of iterative pruning, by the last training's as they are in a study."""
        return self.epochs // (2 * ROUNDS - 1)

    def tune_between(self, model: nn.Module, seed: int) -> None:
        """In place, between two rounds."""
        self.train(model, epochs=self.short, lr=self.lr, seed=seed)
        self.spent.append(self.short)

    @property
    def unseen(self) -> Split:
        """All images that take no part in any training."""
        parts = self.data.test, self.data.validation, self.data.calibration
        return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))

    def score(self, model: nn.Module, split: Split | None = None) -> float:
        """Accuracy on the first training images, or on a split."""
        split = split or Split(self.data.train.images[: self.images], self.data.train.labels[: self.images])
        return evaluate(model, split, input_size=self.student.input_size, normalisation=self.data.normalisation)

    def task(self, model: nn.Module, ratio: float, seed: int, **more: Any) -> PruningTask:
        """What a pruner of this program is given."""
        pixels = torch.from_numpy(self.data.train.images[-self.images :])
        images = prepare_tensor(pixels, self.student.input_size, self.data.normalisation)
        return PruningTask(
            model=model,
            input_shape=self.shape,
            ratio=ratio,
            granularity=self.granularity,
            draws=self.draws,
            steps=ROUNDS,
            score=self.score,
            recalibrate=lambda network: re_estimate_batch_norm(network, images),
            finetune=lambda network, step: self.tune_between(network, seed + step + 1),
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


def rows_of(
    bench: Bench, seed: int, ratios: Sequence[float], methods: Sequence[str], *, epochs: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """The student trained with this seed, then pruned by the methods to every ratio: (method and ratio, what came of it)."""
    torch.manual_seed(seed)
    model = bench.network()
    bench.train(model, epochs=epochs, lr=3e-3, seed=seed)
    unseen, whole = bench.unseen, sum(layer_macs(model, bench.shape).values())
    yield "unpruned", {"accuracy": bench.score(model.eval(), unseen), "fps": fps(model, bench), "macs_removed": 0.0}
    known = measure_sensitivity(model, bench.shape, granularity=bench.granularity, score=bench.score, seed=seed)
    for ratio in ratios:
        for method, make in prunings(model, bench, ratio, seed, known).items():
            if method not in methods and not (method == "iterative" and "iterative_fps" in methods):
                continue
            bench.spent.clear()
            pruned = make()
            raw = bench.score(pruned.eval(), unseen)
            bench.train(pruned, epochs=bench.epochs - sum(bench.spent), lr=bench.lr, seed=seed + 100)
            yield (
                f"{method} {ratio:g}",
                {
                    "accuracy": bench.score(pruned.eval(), unseen),
                    "accuracy_before_last_tuning": raw,
                    "fps": fps(pruned, bench),
                    "macs_removed": 1 - sum(layer_macs(pruned, bench.shape).values()) / whole,
                },
            )


def fps(model: nn.Module, bench: Bench) -> float:
    """Throughput on the board."""
    return bench.board.measure(lower(model, bench.shape, target=bench.board.target)).throughput_fps


def summed_up(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over the seeds, by method and ratio, and how far behind Torch-Pruning's each one's accuracy is, in points.

    For "iterative_fps" also how far ahead of "iterative" it is.
    """
    results = {}
    for name, found in rows.items():
        mean = {key: statistics.fmean(row[key] for row in found) for key in found[0]}
        results[name] = {key: round(value, 4 if value < 100 else 1) for key, value in mean.items()}
        method, _, ratio = name.partition(" ")
        if method not in ("unpruned", "torch_pruning") and (theirs := rows.get(f"torch_pruning {ratio}")) is not None:
            results[name] |= points("behind", theirs, found)
        if method == "iterative_fps" and (by_macs := rows.get(f"iterative {ratio}")) is not None:
            results[name] |= points("ahead", found, by_macs)
    return results


def points(name: str, more: Sequence[Mapping[str, float]], less: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By how many points of accuracy the first are better, seed by seed: the mean, and its standard error."""
    gains = [100 * (one["accuracy"] - other["accuracy"]) for one, other in zip(more, less, strict=True)]
    found = {name: round(statistics.fmean(gains), 2)}
    return found | ({f"{name}_error": round(statistics.stdev(gains) / len(gains) ** 0.5, 2)} if len(gains) > 1 else {})


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="a data source's name or import path")
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--train-images", type=int, default=None)
    parser.add_argument("--test-images", type=int, default=None)
    parser.add_argument("--noise", type=float, default=None, help="0.3 for the digits, which are too easy without")
    parser.add_argument("--students", nargs="+", default=None, help="a residual, a plain and a mobile network")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--input-size", type=int, default=None, help="8 for the digits, else 32")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--finetune-epochs", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--granularity", type=int, default=4)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=256, help="on which networks are scored")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    digits = given.data == "digits"
    noise = given.noise if given.noise is not None else 0.3 if digits else 0.0
    images = {"train_images": given.train_images, "test_images": given.test_images}
    data = load_data(DataSettings(name=given.data, root=given.root, noise=noise, **images))
    board = find_board("zcu104")
    assert isinstance(board, SimulatedBoard)
    started, results = time.perf_counter(), {}
    for name in given.students or (SMALL if digits else LARGE):
        student = Student(architecture=name, width=given.width, input_size=given.input_size or (8 if digits else 32))
        bench = Bench(data, student, given.granularity, given.finetune_epochs, 1e-3, given.images, given.draws, board)
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in given.seeds:
            for key, row in rows_of(bench, seed, given.ratios, given.methods, epochs=given.epochs):
                rows.setdefault(key, []).append(row)
                shown = {name: round(value, 4) for name, value in row.items()}
                print(f"{student.name}  seed {seed}  {key:<18}", shown, f"{time.perf_counter() - started:.0f} s", flush=True)
        results[student.name] = summed_up(rows)
    for name, of_student in results.items():
        for key, mean in of_student.items():
            gains = [f", {mean[what]:+.1f} ±{mean.get(f'{what}_error', 0):.1f} points {what}" for what in GAINS if what in mean]
            print(
                f"{name}  {key:<20} accuracy {mean['accuracy']:.2%}, {mean['macs_removed']:.1%} of MACs gone, "
                f"{mean['fps']:,.0f} fps{''.join(gains)}"
            )
    finish(
        {
            "data": data.name,
            "granularity": given.granularity,
            "seeds": given.seeds,
            "unseen_images": len(bench.unseen),
            "results": results,
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


if __name__ == "__main__":
    main()
