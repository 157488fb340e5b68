"""Networks drawn from the whole staged family run on the DPU, at any width that pruning leaves them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.board_eval import board_timing, compile_xmodel, load_profile, lower
from edgesearch.objectives import quantize
from edgesearch.objectives.pruning import prune_iterative, prune_one_step, resize_to
from edgesearch.spaces import PRESETS, Space, Student, build

PROFILE = load_profile("zcu104")
SPACE = Space.model_validate(
    {
        "students": ["staged"],
        "input_size": [4, 8, 28, 32],
        "student": {
            "staged": {
                "stem": ["3x3", "3x3/2", "4x4/4", "2x2"],
                "stem_width": [16, 32],
                "stages": [2, 3, 4],
                "depth": [1, 2],
                "width": {"low": 16, "high": 64, "step": 16},
                "block": ["plain", "residual", "bottleneck", "inverted", "fire"],
                "expansion": [1, 2, 4],
                "kernel": [3, 5],
                "down": ["none", "stride", "pool", "pool_norm"],
                "pooling": ["average", "max"],
                "head": [0, 32],
                "stage1": {"down": ["none", "stride", "pool", "pool_norm"]},
            }
        },
    }
)


class Dice:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        assert step is not None
        return low + step * self.random.randint(0, round((high - low) / step))


def trained(student: Student) -> nn.Module:
    """The network with statistics as a training leaves them."""
    torch.manual_seed(0)
    model = build(student, channels=3, classes=10)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -0.3, 0.3)):
                nn.init.uniform_(tensor, low, high)
            norm.running_mean.uniform_(-0.3, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_every_network_lowers_and_is_timed(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        student = SPACE.suggest(Dice(seed)).student
        graph = lower(build(student, channels=3, classes=10), (3, student.input_size, student.input_size))
        assert graph.output.shape == (10,)
        assert board_timing(graph, PROFILE, layers=False).dpu_s > 0


def pruned(model: nn.Module, size: int, method: str) -> nn.Module:
    def score(network: nn.Module) -> float:
        with torch.no_grad():
            return float(network.eval()(torch.ones(1, 3, size, size)).abs().sum())

    options: dict[str, Any] = {"ratio": 0.5, "granularity": 8, "score": score, "seed": 0}
    if method == "one_step":
        found = prune_one_step(model, (3, size, size), draws=3, recalibrate=lambda network: None, **options)
    else:
        found = prune_iterative(model, (3, size, size), steps=2, finetune=lambda network, step: None, **options)
    assert found.reached_ratio == pytest.approx(0.5, abs=0.15)
    return found.model


@pytest.mark.slow
@pytest.mark.parametrize("method", ["one_step", "iterative"])
@pytest.mark.parametrize("seed", range(100, 106))
def test_every_network_is_pruned_quantized_and_compiled(seed: int, method: str) -> None:
    student = SPACE.suggest(Dice(seed)).student
    size = student.input_size
    narrow = pruned(trained(student), size, method)
    again = resize_to(build(student, channels=3, classes=10), narrow.state_dict()).eval()
    x = torch.randn(2, 3, size, size)
    assert torch.equal(again(x), narrow.eval()(x))
    images = np.random.default_rng(0).normal(size=(4, size, size, 3)).astype(np.float32)
    for algorithm in ("vitis", "best"):
        quantized = quantize(lower(again, (3, size, size)), images, method=algorithm, seed=0)
        compile_xmodel(quantized, PROFILE.dpu, images=images[:1])  # executes the code and compares it, bit for bit


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_run(name: str) -> None:
    graph = lower(build(Student(architecture=name, width=0.5), channels=3, classes=10), (3, 32, 32))
    assert board_timing(graph, PROFILE, layers=False).dpu_s > 0
