"""A small network for the digits, and its training on the DPU's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Linear
from edgesearch.objectives.data import DataSet
from edgesearch.objectives.quantization._qat import Qat, train_qat
from edgesearch.objectives.quantization._qat_recipe import QatRecipe

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """conv-bn-relu, a residual add, relu6 and depthwise behind batch-norm, a linear layer with batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.hidden = nn.Sequential(nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.pool, self.classes = nn.MaxPool2d(2), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.point(self.depthwise(x)) + x)
        return self.classes(self.hidden(torch.flatten(self.pool(self.wide(x)), 1)))


def qat(model: nn.Module, data: DataSet, recipe: dict[str, Any] | None = None, **options: Any) -> Qat:
    whole = QatRecipe.model_validate({"epochs": 4, "augmentation": "none", **(recipe or {})})
    return train_qat(model, data, recipe=whole, input_size=None, checkpoint_seconds=0, **options)


def same(one: Graph, two: Graph) -> bool:
    return all(
        a.fix == b.fix and (not isinstance(a, Conv | Depthwise | Linear) or np.array_equal(a.weight, b.weight))
        for a, b in zip(one, two, strict=True)
    )
