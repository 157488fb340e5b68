"""The quantized stage: which way of quantizing runs, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.board_eval import Graph, lower
from edgesearch.objectives import DataSet, DataSettings, Store, load_data
from edgesearch.objectives.stages._quantized import quantize_network
from edgesearch.spaces import Quantization, Student, build


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(DataSettings(name="digits", train_images=200, validation_images=100, calibration_images=32))


@pytest.fixture
def mlp(data: DataSet) -> nn.Module:
    torch.manual_seed(0)
    return build(Student(architecture="mlp", input_size=8), channels=1, classes=10).eval()


def quantized(model: nn.Module, data: DataSet, folder: Path, recipe: dict[str, Any], **settings: Any) -> tuple[Graph, Any]:
    return quantize_network(
        model,
        data,
        quantization=Quantization(**settings),
        recipe=recipe,
        scratch_epochs=None,
        input_size=8,
        seed=0,
        distillation=None,
        checkpoints=Store(folder).checkpoints("0" * 64),
        report=lambda line: None,
        device="cpu",
    )


def moved(graph: Graph, model: nn.Module) -> list[bool]:
    """Of every layer, whether most weights are further from the float ones than rounding puts them; saturated ones may be."""
    before = lower(model, (1, 8, 8)).by_name
    layers = [node for node in graph if getattr(node, "weight", None) is not None]
    return [bool(np.median(np.abs(n.weight - before[n.name].weight)) > 0.51 * 2.0**-n.weight_fix) for n in layers]


def test_parts_of_a_network_train_at_rates_of_their_own(mlp: nn.Module, data: DataSet, tmp_path: Path) -> None:
    recipe = {"epochs": 2, "lr": 1e-2, "batch_size": 32, "stage_lrs": [0.0, 1.0]}
    graph, _ = quantized(mlp, data, tmp_path, recipe, method="qat", algorithm="vitis")
    assert moved(graph, mlp) == [False, True, True]
    graph, _ = quantized(mlp, data, tmp_path / "all", recipe | {"stage_lrs": [1.0]}, method="qat", algorithm="vitis")
    assert moved(graph, mlp) == [True, True, True]


def test_float16_is_not_quantized_and_5_bits_are_recorded(mlp: nn.Module, data: DataSet, tmp_path: Path) -> None:
    graph, figures = quantized(mlp, data, tmp_path, {}, bits=16)
    assert not graph.quantized
    assert figures["bits"] == 16
    graph, figures = quantized(mlp, data, tmp_path, {}, bits=5)
    assert graph.bits == figures["bits"] == 5
    assert 0 <= figures["float_accuracy"] <= 1
