"""A batch that memory does not suffice for, computed in pieces whose gradients add up to the whole one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from edgesearch.objectives.training._device import out_of_memory
from edgesearch.objectives.training._distillation import Batch
from edgesearch.objectives.training._soft_targets import Second

__all__ = ["Pieces"]


class Pieces:
    """In how many pieces, a power of two, a training computes its batches; twice as many from a batch on that does not fit.

    The optimizer sees the gradient of the whole batch either way. Batch statistics are those of the pieces, and the batch that
    failed may count twice in their running means. `clear` takes all gradients away.
    """

    def __init__(self, clear: Callable[[], None], count: int = 1) -> None:
        self._clear = clear
        self.count = count

    def gradients(self, batch: Batch, compute: Callable[[Batch, float], Tensor]) -> Tensor:
        """Let `compute` add the gradients of the batch's mean loss; the loss.

        compute: given a batch and its share of the whole one, adds the gradients of its mean loss times the share, and returns
        the loss, not weighted. Raises what it raises, lack of memory when no piece can be halved any more.
        """
        while True:
            try:
                return self._in_pieces(batch, compute)
            except (RuntimeError, MemoryError) as error:
                # A piece of one image has no batch statistics, and a step that is recorded is made in as many as those before.
                if len(batch.labels) < 4 * self.count or not out_of_memory(error) or _records():
                    raise
            # Here the exception is gone, and with it the frames that hold what filled the memory.
            self._clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.count *= 2

    def _in_pieces(self, batch: Batch, compute: Callable[[Batch, float], Tensor]) -> Tensor:
        images = len(batch.labels)
        count = self.count
        while count > 1 and images < 2 * count:  # who asked for so many did not know the batch
            count //= 2
        if count == 1:
            return compute(batch, 1.0)
        ends = [images * number // count for number in range(count + 1)]
        losses = []
        for start, end in pairwise(ends):
            share = (end - start) / images
            losses.append(share * compute(_part(batch, start, end), share))
        return torch.stack(losses).sum()


def _records() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _part(batch: Batch, start: int, end: int) -> Batch:
    return replace(
        batch,
        pixels=batch.pixels[start:end],
        inputs=batch.inputs[start:end],
        labels=batch.labels[start:end],
        index=batch.index[start:end],
        second=None if batch.second is None else Second(*(part[start:end] for part in batch.second)),
    )
