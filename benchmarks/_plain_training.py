"""Training as a script of one's own does it: torchvision's transforms in a DataLoader with two workers, float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgesearch.spaces import Student, build

__all__ = ["augmented_batches", "batches", "plain_batches", "step"]


class _Images(Dataset[tuple[Tensor, int]]):
    """Images uint8 (N, H, W, 3) normalised, one by one; `augmented`: moved by up to 4 pixels and mirrored by chance."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], *, augmented: bool) -> None:
        build(Student(architecture="resnet18"), channels=3, classes=2)  # imports torchvision, with what this torch lacks
        from torchvision import transforms

        self._images, self._labels = images, labels
        moves = [transforms.RandomCrop(images.shape[1], padding=4), transforms.RandomHorizontalFlip()]
        self._transform: Any = transforms.Compose(
            [
                transforms.ToPILImage(),
                *(moves if augmented else ()),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self._transform(self._images[place]), int(self._labels[place])


def augmented_batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch: int, *, workers: int = 2
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: images float32 (batch, 3, H, W) and labels (batch,)."""
    loader = DataLoader(_Images(images, labels, augmented=True), batch, shuffle=True, num_workers=workers, drop_last=True)
    while True:
        yield from loader


def plain_batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch: int, *, workers: int = 2
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The same batches of every image once, in order and as it is."""
    return DataLoader(_Images(images, labels, augmented=False), batch, num_workers=workers)


def batches(images: Tensor, labels: Tensor, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of images that are prepared, as they are."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(images), generator=generator).split(batch):
            yield images[index], labels[index]


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, teacher: nn.Module | None = None
) -> None:
    """One step; with a teacher, which answers in every step, half of the loss is Hinton's at temperature 4."""
    optimizer.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    if teacher is not None:
        with torch.no_grad():
            taught = teacher(images)
        soft = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(taught / 4, 1), reduction="batchmean")
        loss = 0.5 * loss + 0.5 * 16 * soft
    loss.backward()
    optimizer.step()
