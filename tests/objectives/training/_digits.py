"""A small network for the digits, and its training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgesearch.objectives.data._dataset import DataSet
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._train import Training, train


def network(width: int = 6, classes: int = 10, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2 * width, classes),
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    other_state = other.state_dict()
    return all(torch.equal(value, other_state[name]) for name, value in one.state_dict().items())


def run(model: nn.Module, data: DataSet, **changes: Any) -> Training:
    options: dict[str, Any] = {"recipe": Recipe(epochs=4), "input_size": None, "seed": 3, "device": "cpu"}
    return train(model, data, **(options | changes))
