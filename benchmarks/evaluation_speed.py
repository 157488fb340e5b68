"""Looking at trained networks: float and integer accuracy, sensitivity, batch-norm statistics, beside plain ways of the same.

Run: python benchmarks/evaluation_speed.py. Networks are untrained and images noise, 32 x 32, which decides nothing about speed.
A plain float evaluation is a script's: torchvision's transforms in a DataLoader with two workers, batches of 128, float32 in
the default memory format. Plain sensitivity evaluates so whatever is scored, on --scored images; plain re-estimation is a pass
of such batches in training mode; plain integer accuracy executes one image after another. Both take turns, the shortest time of
each counts, and both have --threads (the plain way's two workers come on top). `ratio` is the sum of the plain times by the sum
of ours. Accuracies must be equal, and integers bit by bit. PTQ has no plain way beside it: its seconds are told.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _plain_training import plain_batches
from _report import finish
from torch import nn

from edgesearch.board_eval import execute, lower
from edgesearch.board_eval.execution import Executor
from edgesearch.objectives import quantize
from edgesearch.objectives.data import Normalisation, Split, prepare, prepare_tensor
from edgesearch.objectives.pruning import measure_sensitivity, re_estimate_batch_norm
from edgesearch.objectives.training import Scorer, evaluate
from edgesearch.spaces import Student, build

NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3)
SIDE = 32


def turns(rounds: int, *works: Callable[[], Any]) -> tuple[tuple[float, ...], list[Any]]:
    """Shortest seconds of each work, taken in turns, and what each gave."""
    times: list[list[float]] = [[] for _ in works]
    results: list[Any] = [None] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            begun = time.perf_counter()
            results[number] = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[number].append(time.perf_counter() - begun)
    return tuple(min(each) for each in times), results


def plain_evaluate(model: nn.Module, split: Split, device: torch.device) -> float:
    model.to(device).eval()
    right = 0
    with torch.no_grad():
        for images, labels in plain_batches(split.images, split.labels, 128):
            right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(split)


def plain_statistics(model: nn.Module, split: Split, device: torch.device) -> None:
    model.to(device).train()
    with torch.no_grad():
        for images, _ in plain_batches(split.images, split.labels, 128):
            model(images.to(device))
    model.eval()


def measure(name: str, split: Split, scored: Split, rounds: int, device: torch.device) -> dict[str, tuple[float, ...]]:
    """Seconds of each kind of work, the plain way and ours; of PTQ ours alone."""
    torch.manual_seed(0)
    model = build(Student(architecture=name, input_size=SIDE), channels=3, classes=10)
    shape = (3, SIDE, SIDE)
    options: dict[str, Any] = {"input_size": SIDE, "normalisation": NORMALISATION, "device": device}

    def sensitivity(score: Callable[[nn.Module], float]) -> None:
        measure_sensitivity(model.cpu(), shape, granularity=16, score=score, seed=0)

    def statistics() -> None:
        re_estimate_batch_norm(model.to(device), prepare_tensor(torch.from_numpy(split.images), SIDE, NORMALISATION))

    few = Split(split.images[:128], split.labels[:128])
    plain_evaluate(model, few, device), evaluate(model.to(device), few, **options)  # imports and buffers, once
    taken: dict[str, tuple[float, ...]] = {}
    taken["statistics"], _ = turns(rounds, lambda: plain_statistics(model, split, device), statistics)
    taken["float"], accuracies = turns(
        rounds,
        lambda: plain_evaluate(model, split, device),
        lambda: evaluate(model.to(device), split, **options),
    )
    taken["sensitivity"], _ = turns(
        1,
        lambda: sensitivity(lambda network: plain_evaluate(network, scored, device)),
        lambda: sensitivity(Scorer(scored, **options)),
    )
    images = prepare(split.images, SIDE, NORMALISATION)
    lowered = lower(model.cpu(), shape)
    taken["ptq"], (graph,) = turns(1, lambda: quantize(lowered, images[:64], method="vitis", device=str(device)))
    executor = Executor(graph, device=str(device))
    taken["integer"], integers = turns(
        rounds,
        lambda: np.concatenate([executor.logits(images[i : i + 1]) for i in range(len(images))]),
        lambda: execute(graph, images, device=str(device)),
    )
    if not np.array_equal(*integers) or len(set(accuracies)) > 1:
        raise SystemExit(f"{name}: integers or accuracies differ")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--scored", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--networks", nargs="+", default=["resnet20", "mobile_small"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.images, SIDE, SIDE, 3), dtype=np.uint8)
    split = Split(pixels, np.arange(len(pixels)) % 10)
    scored = Split(split.images[: arguments.scored], split.labels[: arguments.scored])
    figures: dict[str, Any] = {}
    both = np.zeros(2)
    for name in arguments.networks:
        taken = measure(name, split, scored, arguments.rounds, device)
        (ptq,) = taken.pop("ptq")
        figures[name] = {work: round(plain / ours, 2) for work, (plain, ours) in taken.items()} | {"ptq_seconds": round(ptq, 2)}
        both += np.sum(list(taken.values()), axis=0)
        print(name, *(f"{work} {plain:.2f} / {ours:.2f} s" for work, (plain, ours) in taken.items()), flush=True)
    finish(
        {
            "benchmark": "evaluation_speed",
            "ratio": round(both[0] / both[1], 2),
            "networks": figures,
            "device": str(device),
            "threads": arguments.threads,
        }
    )


if __name__ == "__main__":
    main()
