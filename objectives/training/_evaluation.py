"""What a float network answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.board_eval.execution import full_float32
from edgesearch.objectives.data import Normalisation, Split, View, answer_of, blank_images, prepare_tensor, show, stored_images
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.training._cached_batch import PROBED, cached_batch
from edgesearch.objectives.training._device import choose_device
from edgesearch.objectives.training._shown import Shown

__all__ = ["Scorer", "evaluate", "evaluation_batch", "predict_logits"]

#: Bytes that one batch of prepared images may take.
_BATCH_BYTES = 64 << 20
#: Images of a batch, where that is not said and memory allows.
_BATCH = 256
#: Bytes of prepared images that are kept for all networks.
_KEPT_BYTES = 256 << 20


def evaluation_batch(size: tuple[int, int], channels: int, batch_size: int = _BATCH) -> int:
    """How many images of `size` (height, width) are shown at a time, at most `batch_size`."""
    return max(1, min(batch_size, _BATCH_BYTES // (4 * size[0] * size[1] * channels)))


def predict_logits(
    model: nn.Module,
    images: NDArray[np.uint8] | Tensor,
    *,
    input_size: int | tuple[int, int] | None,
    normalisation: Normalisation,
    batch_size: int | None = _BATCH,
    device: str | torch.device = "cpu",
    view: View | None = None,
    note: Callable[[str], object] = lambda line: None,
) -> NDArray[np.float32]:
    """Logits float32 (N, classes) of images uint8 (N, H, W, C), resized to `input_size` and normalised; eval mode, float32.

    `model` must be on `device`. Without a `batch_size` so many images are shown at a time as suit the network's values; it
    decides last digits. Where memory does not suffice for a batch it goes on with half of it, and `note` is told; raises
    OutOfMemory where it does not for one image.
    """
    pixels = images if isinstance(images, Tensor) else stored_images(images)
    where = device if isinstance(device, torch.device) else choose_device(device)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size or pixels.shape[1:3]
    if batch_size is None:
        with full_float32(), quiet(model):
            first = prepare_tensor(pixels[:PROBED].to(where), input_size, normalisation)
            batch_size = cached_batch(model, first, _BATCH)
    batch_size = evaluation_batch((height, width), pixels.shape[3], batch_size)

    def answer(start: int, end: int) -> Tensor:
        shown = show(pixels, view, torch.arange(start, end))
        found = answer_of(model, prepare_tensor(shown.to(where), input_size, normalisation))
        return found.float().cpu()

    with full_float32(), quiet(model):
        parts = Shown(batch_size, note).answers(len(pixels), answer)
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    input_size: int | tuple[int, int] | None,
    normalisation: Normalisation,
    device: str | torch.device = "cpu",
    note: Callable[[str], object] = lambda line: None,
) -> float:
    """The share of the split's images whose greatest logit is their label's; the first of equals counts.

    Memory and `note` are as in `predict_logits`.
    """
    logits = predict_logits(
        model,
        split.images,
        input_size=input_size,
        normalisation=normalisation,
        batch_size=None,
        device=device,
        note=note,
    )
    return float((logits.argmax(1) == split.labels).mean())


class Scorer:
    """Called with one network after another: `evaluate` on the same images, which are made ready once where memory allows.

    Networks are moved to `device`; memory and `note` are as in `predict_logits`.
    """

    def __init__(
        self,
        split: Split,
        *,
        input_size: int | tuple[int, int] | None,
        normalisation: Normalisation,
        device: str | torch.device,
        note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._device = device if isinstance(device, torch.device) else choose_device(device)
        self._split, self._size, self._normalisation = split, input_size, normalisation
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size or split.images.shape[1:3]
        channels = split.images.shape[3]
        batch = evaluation_batch((height, width), channels)
        self._shown = Shown(batch, note)
        self._kept: Tensor | None = None
        if 4 * channels * height * width * len(split) <= _KEPT_BYTES:
            self._kept = blank_images(len(split), (channels, height, width), self._device)
            for start in range(0, len(split), batch):
                self._kept[start : start + batch] = self._prepared(start, start + batch)

    def __call__(self, model: nn.Module) -> float:
        """The share of images that the network tells right, in eval mode."""
        model.to(self._device)

        def inputs(start: int, end: int) -> Tensor:
            return self._prepared(start, end) if self._kept is None else self._kept[start:end]

        with full_float32(), quiet(model):
            most = cached_batch(model, inputs(0, PROBED), _BATCH)
            answers = self._shown.answers(
                len(self._split), lambda start, end: answer_of(model, inputs(start, end)).float(), most
            )
        found = torch.cat(answers).cpu().numpy().argmax(1)
        return float((found == self._split.labels).mean())

    def _prepared(self, start: int, end: int) -> Tensor:
        return prepare_tensor(stored_images(self._split.images[start:end], self._device), self._size, self._normalisation)
