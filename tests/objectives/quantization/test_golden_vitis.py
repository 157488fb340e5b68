"""What `vitis` makes of a network of public arithmetic stays as it is, on every machine.

Weights and images are small multiples of powers of two computed from integers, so that no machine's rounding decides.
Run this file as a program to write the golden file anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import (
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    average_factor,
    weight_integers,
)
from edgesearch.objectives.quantization._quantize import quantize

GOLDEN = Path(__file__).parents[2] / "golden" / "vitis.json"


def numbers(count: int, seed: int) -> Iterator[int]:
    """Integers of -32..31 from a linear congruential generator (Numerical Recipes' constants)."""
    state = seed
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        yield (state >> 20) % 64 - 32


def array(shape: tuple[int, ...], seed: int, exponent: int) -> np.ndarray:
    values = np.array(list(numbers(int(np.prod(shape)), seed)), np.float32).reshape(shape)
    return np.ldexp(values, exponent).astype(np.float32)


def network() -> Graph:
    def conv(name: str, source: str, shape: tuple[int, int, int], before: int, kernel: int, seed: int) -> Conv:
        half = kernel // 2
        return Conv(
            name=name,
            inputs=(source,),
            shape=shape,
            kernel=(kernel, kernel),
            padding=(half, half, half, half),
            weight=array((shape[2], kernel, kernel, before), seed, -7 if kernel == 3 else -6),
            bias=array(shape[2:], seed + 1, -5),
            activation="relu",
        )

    depthwise = Depthwise(
        name="depthwise",
        inputs=("joined",),
        shape=(12, 12, 12),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        weight=array((3, 3, 12), 7, -6),
        bias=array((12,), 8, -4),
        activation="relu6",
    )
    nodes: tuple[Node, ...] = (
        Input(name="image", inputs=(), shape=(12, 12, 3)),
        conv("stem", "image", (12, 12, 8), 3, 3, 1),
        conv("left", "stem", (12, 12, 4), 8, 1, 3),
        Concat(name="joined", inputs=("left", "stem"), shape=(12, 12, 12)),
        depthwise,
        conv("narrow", "depthwise", (12, 12, 8), 12, 1, 9),
        Add(name="sum", inputs=("narrow", "stem"), shape=(12, 12, 8)),
        Pool(name="max", inputs=("sum",), shape=(6, 6, 8), kind="max", kernel=(2, 2), stride=(2, 2)),
        Pool(
            name="mean",
            inputs=("max",),
            shape=(1, 1, 8),
            kind="avg",
            kernel=(6, 6),
            stride=(6, 6),
            is_global=True,
            factor=average_factor((6, 6)),
        ),
        Reshape(name="flat", inputs=("mean",), shape=(8,)),
        Linear(name="classes", inputs=("flat",), shape=(5,), weight=array((5, 8), 11, -6), bias=array((5,), 12, -6)),
    )
    return Graph("Golden", nodes)


def images() -> np.ndarray:
    return array((12, 12, 12, 3), 99, -5)


def summary() -> dict[str, Any]:
    """Positions, integers and logits of the quantized network."""
    quantized = quantize(network(), images(), method="vitis")
    integers = hashlib.sha256()
    positions: dict[str, list[int | None]] = {}
    for node in quantized:
        positions[node.name] = [node.fix]
        if isinstance(node, Conv | Depthwise | Linear):
            positions[node.name] += [node.weight_fix, node.bias_fix]
            for values in weight_integers(node):
                assert values is not None
                integers.update(values.astype(np.int8).tobytes())
    return {
        "positions": positions,
        "integers_sha256": integers.hexdigest(),
        "logits": execute(quantized, images()).tolist(),
    }


def test_vitis_makes_what_it_made() -> None:
    expected = json.loads(GOLDEN.read_text())
    found = summary()
    assert found["positions"] == expected["positions"]
    assert found["logits"] == expected["logits"]
    assert found["integers_sha256"] == expected["integers_sha256"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(summary(), indent=1) + "\n")
