"""Images per second of each way to show training images, on one core: how they are moved, coloured and mixed.

Run: python benchmarks/views.py. Images are noise of three channels. Processor time counts, so that what else runs on the
machine disturbs little. Beside them `prepare`: bytes to normalised numbers, which every image needs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import get_args

import torch
from _report import finish

from edgesearch.objectives.data import Augmentation, Mix, Normalisation, draw_mixing, draw_view, mixed, prepare_tensor, show

#: Side in pixels and images.
SIZES = {32: 2560, 224: 128}
BATCH = 64


def images_per_second(count: int, work: Callable[[], object], rounds: int) -> float:
    """The best of some rounds, behind one that warms up."""
    best = float("inf")
    for number in range(rounds + 1):
        begun = time.process_time()
        work()
        if number:
            best = min(best, time.process_time() - begun)
    return round(count / best)


def measure(side: int, count: int, rounds: int) -> dict[str, float]:
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    order, normalisation = torch.randperm(count), Normalisation((0.5,) * 3, (0.5,) * 3)
    batches = [len(part) for part in order.split(BATCH)]

    def shown(kind: Augmentation) -> None:
        view = draw_view(kind, count, (side, side), 1, mirror_seed=2)
        for index in order.split(512):
            show(images, view, index)

    def both(kind: Mix) -> None:
        mixing = draw_mixing(kind, 1.0, batches, (side, side), 1)
        assert mixing is not None
        mixed(images, images[mixing.partner], mixing, slice(0, count))

    found = {kind: images_per_second(count, lambda kind=kind: shown(kind), rounds) for kind in get_args(Augmentation)}
    found |= {kind: images_per_second(count, lambda kind=kind: both(kind), rounds) for kind in get_args(Mix)[1:]}
    return found | {"prepare": images_per_second(count, lambda: prepare_tensor(images, None, normalisation), rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    report: dict[str, object] = {"benchmark": "views"}
    for side, count in SIZES.items():
        found = measure(side, count, arguments.rounds)
        print("\n".join(f"{side:>4} px  {name:<16}{rate:>9,.0f} images/s" for name, rate in found.items()), flush=True)
        report |= {f"{name}_{side}": rate for name, rate in found.items()}
    finish(report)


if __name__ == "__main__":
    main()
