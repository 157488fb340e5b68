"""What is made ready for a training, and how much of it at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgesearch.objectives.data import DataSet, Split
from edgesearch.objectives.training import Recipe
from edgesearch.objectives.training._allocations import Allocations
from edgesearch.objectives.training._batches import Batches, chunk_images

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MB = 1 << 20


def noise(count: int, size: tuple[int, int]) -> DataSet:
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 1), dtype=np.uint8)
    split = Split(images, np.arange(count) % 10)
    return DataSet("noise", tuple("0123456789"), 1, size, split, split, split, split, "", {})


@pytest.mark.parametrize("augmentation", ["none", "flip_crop", "randaugment"])
def test_a_processor_makes_few_images_ready_at_a_time(augmentation: str) -> None:
    """Of 30,000 images, 24 MB as they are stored, no more than some twenty MB are on their way to the network."""
    data = noise(30_000, (28, 28))
    recipe = Recipe(batch_size=64, augmentation=augmentation)
    batches = Batches(data, recipe, size=data.size, seed=0, device=CPU, stored=None)
    alive: dict[int, int] = {}
    now = peak = 0
    with Allocations([batches._images, batches._labels]) as seen:
        shown = sum(len(batch.labels) for batch in batches(0))
    for number, size in seen.events:
        now -= alive.pop(number) if size is None else -alive.setdefault(number, size)
        peak = max(peak, now)
    assert shown == 30_000
    assert peak < 24 * MB


def test_chunks_are_whole_batches_and_larger_on_a_gpu() -> None:
    small, large = (chunk_images(48, 3, (32, 32), place) for place in (CPU, GPU))
    assert small % 48 == large % 48 == 0
    assert small < large < 4000
    assert chunk_images(4096, 3, (224, 224), CPU) == 4096  # a batch is never split
