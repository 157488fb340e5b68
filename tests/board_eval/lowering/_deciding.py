"""Networks whose code decides what is computed, and their graphs beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering import lower


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)


def lowered(model: nn.Module, images: Tensor, *, atol: float = 1e-5) -> Graph:
    """The network's graph, which computes what the network computes of the images (N, C, H, W)."""
    with torch.no_grad():
        expected = model(images)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    _, channels, height, width = images.shape
    graph = lower(model, (channels, height, width))
    found = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found.reshape(expected.shape), expected.numpy(), atol=atol)
    return graph


class Decides(Layers):
    """Computes what it was given to compute, with two layers and a head."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.same, self.body = nn.Conv2d(4, 4, 3, padding=1), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)
