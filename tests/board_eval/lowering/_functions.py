"""Networks whose forward a test writes, and what lowering makes of them or says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.board_eval.execution._execute import run_float
from edgesearch.board_eval.graph._graph import Graph
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.errors import LoweringError


def kinds(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph]


def assert_computes_the_same(model: nn.Module, shape: tuple[int, int, int] = (3, 12, 12)) -> Graph:
    """Lower the model and compare the float network of the Graph with torch on random images."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    model.eval()
    graph = lower(model, shape)
    images = torch.randn(2, *shape)
    with torch.inference_mode():
        expected = model(images.clone())
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    ours = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-4, rtol=1e-4)
    return graph


def refusals(model: nn.Module, shape: tuple[int, int, int] = (3, 12, 12)) -> dict[str, str]:
    """Where -> operation and reason of everything that lowering refuses."""
    with pytest.raises(LoweringError) as caught:
        lower(model, shape)
    return {p.where: f"{p.operation}: {p.reason}" for p in caught.value.problems}


class Function(nn.Module):
    """A module whose forward is the given function of (module, x); layers are attributes."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)
