"""The quantizers of this program keep the contract of all quantizers; others are found by import path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.execution import execute, run_float
from edgesearch.board_eval.graph import Graph
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization import _best
from edgesearch.objectives.quantization._best import hold_back, output_distance, quantize_best
from edgesearch.objectives.quantization._method import QUANTIZERS, Quantizer
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.quantization._vitis import quantize_vitis
from edgesearch.testing import QuantizerContract
from edgesearch.testing._quantizer import small_network


class TestVitis(QuantizerContract):
    def make(self) -> Quantizer:
        return QUANTIZERS.find("vitis")


class TestBest(QuantizerContract):
    def make(self) -> Quantizer:
        return QUANTIZERS.find("best")


@pytest.fixture
def network() -> Graph:
    return small_network(np.random.default_rng(0))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.5, (40, 8, 8, 3)).astype(np.float32)


def test_a_quantizer_of_ones_own_is_found_in_the_folder(tmp_path: Path, network: Graph, images: np.ndarray) -> None:
    (tmp_path / "my_quantizer_of_one_position.py").write_text(
        "import dataclasses\n"
        "from edgesearch.board_eval.graph import Conv, Depthwise, Linear\n"
        "def one(graph, images, *, bits, seed, device):\n"
        "    def put(node):\n"
        "        extra = {'weight_fix': 5, 'bias_fix': 5} if isinstance(node, (Conv, Depthwise, Linear)) else {}\n"
        "        return dataclasses.replace(node, fix=None if node.name == 'flat' else 3, **extra)\n"
        "    return graph.map(put)\n"
        "def nothing(graph, images, *, bits, seed, device):\n"
        "    return graph\n"
    )
    found = quantize(network, images, method="my_quantizer_of_one_position:one", folder=tmp_path)
    assert {node.fix for node in found} == {3, None}
    with pytest.raises(QuantizationError, match="a Graph without fix positions, expected a quantized Graph"):
        quantize(network, images, method="my_quantizer_of_one_position:nothing", folder=tmp_path)


@pytest.mark.parametrize("spoiled", ["best", "vitis"])
def test_best_returns_whichever_is_closer_to_the_float_network_on_held_back_images(
    network: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoiled: str
) -> None:
    shown, held = hold_back(images, 0)
    rivals = {"best": quantize_vitis(network, shown), "vitis": quantize_vitis(network, shown[:5])}
    rivals[spoiled] = spoil(rivals[spoiled])
    taken = "vitis" if spoiled == "best" else "best"
    assert output_distance(network, rivals[taken], held) < output_distance(network, rivals[spoiled], held)
    monkeypatch.setattr(_best, "quantize_alone", lambda *_, **__: rivals["best"])
    monkeypatch.setattr(_best, "quantize_vitis", lambda *_, **__: rivals["vitis"])
    with caplog.at_level("INFO"):
        assert quantize_best(network, images) is rivals[taken]
    assert f"{taken} is taken" in caplog.text


def spoil(graph: Graph) -> Graph:
    """The network with its logits' weights set to zero."""
    node = graph.by_name["classes"]
    return graph.replace({"classes": dataclasses.replace(node, weight=np.zeros_like(node.weight))})


@pytest.mark.parametrize(("count", "held"), [(1, 1), (9, 9), (10, 2), (40, 8), (1000, 64)])
def test_images_held_back_were_not_calibrated_on_unless_there_are_very_few(count: int, held: int) -> None:
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    shown, kept = hold_back(images, 0)
    assert len(kept) == held
    if count >= 10:
        assert sorted([*shown.ravel(), *kept.ravel()]) == list(range(count))
    else:
        assert shown is kept is images


def test_distance_is_the_divergence_of_the_answers(network: Graph, images: np.ndarray) -> None:
    quantized = quantize_vitis(network, images)
    p, q = (np.exp(x.astype(np.float64)) for x in (run_float(network, images), execute(quantized, images)))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert output_distance(network, quantized, images) == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)
