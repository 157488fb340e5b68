"""Images are shown to a network so many at a time, and half as many from where memory does not suffice for that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgesearch.errors import OutOfMemory
from edgesearch.objectives.training._device import out_of_memory

__all__ = ["Shown"]


class Shown:
    """Asks for answers to at most `batch` images at a time; where memory fails it halves `batch` for good, and `note` is told.

    In eval mode an image is answered alike whatever stands beside it, but for last digits.
    """

    def __init__(self, batch: int, note: Callable[[str], object]) -> None:
        self.batch, self._note = batch, note

    def answers(self, count: int, answer: Callable[[int, int], Tensor], most: int | None = None) -> list[Tensor]:
        """What `answer(start, end)` gives for images start .. end - 1, together for all `count`, in order, `most` at a time.

        Raises OutOfMemory where memory does not suffice for one image, and what else `answer` raises.
        """
        parts: list[Tensor] = []
        start = 0
        while start < count:
            end = min(start + min(self.batch, most or self.batch), count)
            part = _tried(answer, start, end)
            if part is None:
                # Here the exception is gone, and with it the frames that hold what filled the memory.
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self.batch = (end - start + 1) // 2
                self._note(f"out of memory while predicting {end - start} images at a time; going on with {self.batch}")
            else:
                parts.append(part)
                start = end
        return parts


def _tried(answer: Callable[[int, int], Tensor], start: int, end: int) -> Tensor | None:
    """The answer; None where memory does not suffice for so many images."""
    try:
        return answer(start, end)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if end - start == 1:
            raise OutOfMemory(
                "out of memory while predicting a single image; use a smaller input or network, or give the stage more memory"
            ) from error
    return None
