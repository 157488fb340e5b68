"""The quantizers of this program keep the contract of all quantizers; others are found by import path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.graph import Graph
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization import _best, _distance
from edgesearch.objectives.quantization._best import choose_rival, hold_back, judged_on, quantize_best
from edgesearch.objectives.quantization._distance import Judge, answer_distances
from edgesearch.objectives.quantization._method import Quantizer
from edgesearch.objectives.quantization._quantize import QUANTIZERS, quantize
from edgesearch.objectives.quantization._vitis import quantize_vitis
from edgesearch.testing import QuantizerContract


class TestVitis(QuantizerContract):
    def make(self) -> Quantizer:
        return QUANTIZERS.find("vitis")


class TestBest(QuantizerContract):
    def make(self) -> Quantizer:
        return QUANTIZERS.find("best")


class TestPerChannel(QuantizerContract):
    per_channel = True

    def make(self) -> Quantizer:
        return QUANTIZERS.find("per_channel")


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
        "def broken(graph, images, *, bits, seed, device):\n"
        "    raise ValueError('no idea')\n"
    )
    found = quantize(network, images, method="my_quantizer_of_one_position:one", folder=tmp_path)
    assert {node.fix for node in found} == {3, None}
    with pytest.raises(QuantizationError, match="a Graph without fix positions, expected a quantized Graph"):
        quantize(network, images, method="my_quantizer_of_one_position:nothing", folder=tmp_path)
    with pytest.raises(QuantizationError, match="method 'my_quantizer_of_one_position:broken' failed: ValueError: no idea"):
        quantize(network, images, method="my_quantizer_of_one_position:broken", folder=tmp_path)


@pytest.mark.parametrize("closest", ["best", "unlearnt", "vitis"])
def test_best_returns_whichever_is_closest_to_the_float_network_on_held_back_images(
    network: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closest: str
) -> None:
    good, bad = quantize_vitis(network, hold_back(images, 0)[0]), spoil(quantize_vitis(network, images))
    own = {name: good if name == closest else bad for name in ("best", "unlearnt")}
    monkeypatch.setattr(_best, "quantize_alone", lambda *_, **__: own)
    monkeypatch.setattr(_best, "quantize_as_it_is", lambda *_, **__: good if closest == "vitis" else bad)
    with caplog.at_level("INFO"):
        assert quantize_best(network, images) is good
    assert f"{closest} is taken" in caplog.text


@pytest.mark.parametrize("better", ["best", "unlearnt"])
def test_where_vitis_cannot_quantize_a_network_best_goes_without_it(
    network: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, better: str
) -> None:
    def overflow(*_: object, **__: object) -> Graph:
        raise QuantizationError("layer 'b' puts out 1.5e+15")

    good, bad = quantize_vitis(network, images), spoil(quantize_vitis(network, images))
    monkeypatch.setattr(_best, "quantize_alone", lambda *_, **__: {"best": bad, "unlearnt": bad} | {better: good})
    monkeypatch.setattr(_best, "quantize_as_it_is", overflow)
    with caplog.at_level("INFO"):
        assert quantize_best(network, images) is good
    assert "cannot quantize it: layer 'b' puts out 1.5e+15" in caplog.text


def test_of_two_classifiers_the_one_that_moves_less_probability_is_taken_whatever_its_divergence(
    network: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = run_float(network, judged_on(hold_back(images, 0)[1], 0))
    turned, leaning = exact.copy(), exact + np.array([1.5, 0, 0, 0], np.float32)  # one image beyond doubt wrong; all a little
    turned[0] = np.where(exact[0] == exact[0].min(), 40, 0)
    by_divergence = [
        answer_distances(torch.from_numpy(exact), torch.from_numpy(a), classes=False).mean() for a in (turned, leaning)
    ]
    assert by_divergence[0] > by_divergence[1]
    rival = quantize_vitis(network, images)
    answers = {"turned": turned, "leaning": leaning}
    own, vitis = dataclasses.replace(rival, name="leaning"), dataclasses.replace(rival, name="turned")
    monkeypatch.setattr(_distance, "execute", lambda graph, shown, device: answers[graph.name])
    monkeypatch.setattr(_best, "quantize_alone", lambda *_, **__: {"best": own, "unlearnt": own})
    monkeypatch.setattr(_best, "quantize_as_it_is", lambda *_, **__: vitis)
    assert quantize_best(network, images) is vitis


def rivals_at(best: list[float], unlearnt: list[float], vitis: list[float]) -> dict[_best.Rival, torch.Tensor]:
    return {"best": torch.tensor(best), "unlearnt": torch.tensor(unlearnt), "vitis": torch.tensor(vitis)}


@pytest.mark.parametrize(
    ("distances", "taken"),
    [
        (rivals_at([0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [0.4, 0.4, 0.4]), "best"),
        (rivals_at([0.2, 0.2, 0.2], [0.1, 0.1, 0.11], [0.4, 0.4, 0.4]), "unlearnt"),
        (rivals_at([0.2, 0.2, 0.2], [0.2, 0.2, 0.0], [0.4, 0.4, 0.4]), "best"),  # one image alone is no harm done
        (rivals_at([0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [0.2, 0.2, 0.1]), "vitis"),  # but "vitis" need not be clearly closer
        (rivals_at([0.2, 0.2, 0.2], [0.1, 0.1, 0.11], [0.0, 0.1, 0.1]), "vitis"),
        (rivals_at([0.2, 0.2, 0.2], [0.2, 0.2, 0.2], [0.2, 0.2, 0.2]), "best"),
    ],
)
def test_learning_is_given_up_where_it_clearly_harmed_and_for_vitis_wherever_that_is_closer(
    distances: dict[_best.Rival, torch.Tensor], taken: str
) -> None:
    assert choose_rival(distances) == taken


def test_best_is_never_further_from_the_float_network_on_what_it_is_judged_on_than_vitis(network: Graph) -> None:
    for seed in range(2):
        images = np.random.default_rng(seed).normal(0, 0.5, (40, 8, 8, 3)).astype(np.float32)
        _, held = hold_back(images, seed)
        for bits in (8, 5, 3):
            judge = Judge.of(network, judged_on(held, seed))
            best = judge.distances(quantize_best(network, images, bits=bits, seed=seed)).mean()
            assert best <= judge.distances(quantize_vitis(network, images, bits=bits)).mean()


@pytest.mark.parametrize(("held", "judged"), [(1, 1), (2, 4), (3, 9), (5, 20), (64, 256)])
def test_means_of_two_images_are_judged_on_beside_them(held: int, judged: int) -> None:
    images = np.eye(held, dtype=np.float32)
    found = judged_on(images, seed=1)
    assert found.dtype == np.float32
    assert len(found) == judged
    assert np.array_equal(found[:held], images)
    assert {tuple(sorted(row[row > 0])) for row in found[held:]} <= {(0.5, 0.5)}  # of two that are not the same


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
