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
            place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
            model(torch.zeros(1, channels, height, width, device=place))
    except (Exception, SystemExit) as error:  # whatever a user's network raises
        if isinstance(error, (RuntimeError, MemoryError)) and out_of_memory(error):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"`small_epochs` needs a network that takes images of {height}x{width} pixels, too, and this one does not "
            f"({why}); leave it out"
        ) from error
