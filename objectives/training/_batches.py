"""What a training is shown: the order of the images in each epoch, the view of them, and batches ready for the network.

Order and view come from the seed and the epoch alone, never from a running generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import (
    DataSet,
    View,
    choose_augmentation,
    draw_mixing,
    draw_view,
    mixed,
    prepare_tensor,
    seed_from,
    show,
    stored_images,
)
from edgesearch.objectives.training._distillation import Batch, stored_view
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._soft_targets import Second

__all__ = ["Batches", "chunk_images", "epoch_order", "epoch_view", "smaller"]

#: Bytes of prepared images that are made at a time; the same on a CPU, whose caches should hold them.
_CHUNK_BYTES, _CACHED_BYTES = 32 << 20, 4 << 20
# Streams of random numbers within one epoch.
_ORDER, _VIEW, _MIX = 1, 2, 4


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers of `count` images in the order in which `epoch` shows them, (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_from(seed, epoch, _ORDER)))


def epoch_view(recipe: Recipe, data: DataSet, seed: int, epoch: int, stored: int | None = None) -> tuple[View | None, int]:
    """How `epoch` shows the training images, and the number of the stored logits that belong to it.

    stored: for how many views a teacher's logits are stored; None where any view may be drawn.
    """
    kind, strength = choose_augmentation(recipe.augmentation, data.name), recipe.augmentation_strength
    count, size = len(data.train), data.size
    if stored is not None:
        return stored_view(kind, count, size, epoch % stored, strength=strength), epoch % stored
    return draw_view(kind, count, size, seed_from(seed, epoch, _VIEW), mirror_seed=seed, turn=epoch, strength=strength), 0


def smaller(size: tuple[int, int]) -> tuple[int, int]:
    """Three quarters of both sides, which stay multiples of four where they were of sixteen."""
    return (max(1, size[0] * 3 // 4), max(1, size[1] * 3 // 4))


def chunk_images(batch_size: int, channels: int, size: tuple[int, int], device: torch.device) -> int:
    """How many images are made ready at a time for a network that reads `size` (height, width): whole batches of them."""
    most = _CACHED_BYTES if device.type == "cpu" else _CHUNK_BYTES
    return batch_size * max(1, most // (4 * channels * size[0] * size[1] * batch_size))


class Batches:
    """Called with an epoch: its batches. The training images lie on `device` as bytes; many batches are made at a time.

    size: (height, width) of what the network reads. stored: see `epoch_view`.
    """

    def __init__(
        self, data: DataSet, recipe: Recipe, *, size: tuple[int, int], seed: int, device: torch.device, stored: int | None
    ) -> None:
        if recipe.mix != "none" and stored is not None:
            raise TrainingError(
                f"a teacher's stored logits are of single images, and mix = {recipe.mix!r} shows two in one; leave out `mix`, "
                "or give the teacher itself"
            )
        self._data, self._recipe, self._size, self._seed, self._stored = data, recipe, size, seed, stored
        self._images = stored_images(data.train.images, device)
        self._labels = torch.tensor(data.train.labels, device=device)
        # Of batches of two, the last of an odd number of images would be of one.
        self.steps = max(1, min(math.ceil(len(data.train) / recipe.batch_size), len(data.train) // 2))
        self.largest = math.ceil(len(data.train) / self.steps)  # images of the largest batch

    def __call__(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batches behind the first `done`. Their sizes differ by one at most: a last one of one image has no statistics."""
        data, recipe, device = self._data, self._recipe, self._images.device
        batches = epoch_order(len(data.train), self._seed, epoch).tensor_split(self.steps)
        view, number = epoch_view(recipe, data, self._seed, epoch, self._stored)
        sizes = [len(batch) for batch in batches]
        mixing = draw_mixing(recipe.mix, recipe.mix_alpha, sizes, data.size, seed_from(self._seed, epoch, _MIX))
        size = smaller(self._size) if epoch < recipe.small_epochs else self._size
        at_once = chunk_images(recipe.batch_size, data.channels, self._size, device) // recipe.batch_size
        shown = 0  # places of the epoch's order behind
        for start in range(0, len(batches), at_once):
            order = torch.cat(batches[start : start + at_once])
            places = slice(shown, shown + len(order))
            shown = places.stop
            if start + at_once <= done:
                continue
            pixels, index = show(self._images, view, order), order.to(device)
            labels, second, answers = self._labels[index], None, index + number * len(data.train)
            if mixing is not None:
                partners = (mixing.partner[places] - places.start).to(device)
                pixels = mixed(pixels, pixels[partners], mixing, places)
                second = Second(labels[partners], mixing.share[places].to(device))
            inputs = prepare_tensor(pixels, size, data.normalisation)
            begin = 0
            for place, count in enumerate(sizes[start : start + at_once], start):
                part = slice(begin, begin + count)
                begin = part.stop
                if place < done:
                    continue
                more = None if second is None else Second(second.labels[part], second.share[part])
                yield Batch(pixels[part], inputs[part], labels[part], answers[part], more)
