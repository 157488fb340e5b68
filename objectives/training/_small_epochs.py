"""Whether a network can be trained on smaller images first."""

from __future__ import annotations

import torch
from torch import nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.training._batches import smaller
from edgesearch.objectives.training._device import out_of_memory

__all__ = ["check_small_epochs"]


def check_small_epochs(model: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """TrainingError where the network, one for images of (height, width) `size`, takes none as small as `small_epochs` has."""
    height, width = smaller(size)
    try:
        with quiet(model):
            model(torch.zeros(1, channels, height, width))
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise TrainingError(
            f"`small_epochs` needs a network that takes images of {height}x{width} pixels, too, and this one does not "
            f"({str(error).splitlines()[0]}); leave it out"
        ) from error
