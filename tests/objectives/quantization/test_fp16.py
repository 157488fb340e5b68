"""Half-precision weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from torch import nn

from edgesearch.board_eval.lowering._trace import lower
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization._fp16 import quantize_fp16


def test_weights_are_float16_values_and_nothing_has_a_position() -> None:
    graph = lower(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), (3, 8, 8))
    half = quantize_fp16(graph)
    assert half.bits == 16
    assert not half.quantized
    for node, was in zip(half, graph, strict=True):
        if getattr(node, "weight", None) is not None:
            assert np.array_equal(node.weight, was.weight.astype(np.float16))
            assert not np.array_equal(node.weight, was.weight)
            assert np.array_equal(node.bias, was.bias.astype(np.float16))


def test_weights_too_large_for_float16_name_their_layer() -> None:
    graph = lower(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
    big = graph.replace({"1": dataclasses.replace(graph.by_name["1"], weight=np.full((2, 12), 1e5, np.float32))})
    with pytest.raises(QuantizationError, match="'1': weight reaches 100000, float16 holds 65504"):
        quantize_fp16(big)
