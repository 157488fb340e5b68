"""Any network and any images: a Graph the DPU can run, close to the float one, or one clear error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.board_eval.compiler import Options, compile_graph
from edgesearch.board_eval.execution import Network, to_tensor
from edgesearch.board_eval.execution._execute import execute
from edgesearch.board_eval.graph._arithmetic import weight_integers
from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.graph._serialise import graph_to_json
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization._positions import owners
from edgesearch.objectives.quantization._quantize import quantize

METHODS = ["best", "vitis"]


class Fire(nn.Module):
    """Residual add, concat, max and average pooling, relu6, depthwise, a convolution read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.relu6 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()
        self.narrow, self.pool = nn.Conv2d(16, 8, 1), nn.MaxPool2d(2)
        self.classes = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        y = self.narrow(self.relu6(self.depthwise(y))) + x
        return self.classes(torch.flatten(nn.functional.adaptive_avg_pool2d(self.pool(y), 1), 1))


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return lower(Fire(), (3, 8, 8))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, (40, 8, 8, 3)).astype(np.float32)


def float_logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return Network.of(graph).logits(to_tensor(images)).numpy()


def layers(graph: Graph) -> list[Conv | Depthwise | Linear]:
    return [node for node in graph if isinstance(node, Conv | Depthwise | Linear)]


@pytest.mark.parametrize("method", METHODS)
def test_integers_stay_close_to_the_float_network(graph: Graph, images: np.ndarray, method: str) -> None:
    quantized = quantize(graph, images[:30], method=method)
    assert quantized.quantized
    expected = float_logits(graph, images)
    assert np.abs(execute(quantized, images) - expected).max() < 0.15 * np.abs(expected).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [8, 5])
def test_weights_are_integers_of_the_asked_bits_and_shifts_are_possible(
    graph: Graph, images: np.ndarray, method: str, bits: int
) -> None:
    quantized = quantize(graph, images, method=method, bits=bits)
    assert quantized.bits == bits
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    owned_by = owners(quantized)
    for node in layers(quantized):
        stored = np.ldexp(node.weight, node.weight_fix)
        assert np.array_equal(stored, np.round(stored))
        assert low <= stored.min() <= stored.max() <= high
        assert np.array_equal(weight_integers(node, bits)[0], stored)
        cut = node.weight_fix + quantized.fix_of(node.inputs[0]) - quantized.fix_of(owned_by[node.name])
        assert 0 <= cut <= 16
        assert min(0, cut - 16) <= node.weight_fix + quantized.fix_of(node.inputs[0]) - node.bias_fix <= 16
    assert execute(quantized, images).shape == (40, 4)


@pytest.mark.parametrize("method", METHODS)
def test_only_tensors_the_dpu_rounds_have_a_position(graph: Graph, images: np.ndarray, method: str) -> None:
    quantized = quantize(graph, images, method=method)
    without = {node.name for node in quantized if node.fix is None}
    assert without == {"left", "right", "flatten"}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_network(graph: Graph, images: np.ndarray, method: str) -> None:
    one, two = (quantize(graph, images, method=method, seed=3) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.fix == b.fix
        if isinstance(a, Conv | Depthwise | Linear):
            assert np.array_equal(a.weight, b.weight)
            assert np.array_equal(a.bias, b.bias)


def replace_layer(graph: Graph, name: str, **changes: object) -> Graph:
    return graph.replace({name: dataclasses.replace(graph.by_name[name], **changes)})


@pytest.mark.parametrize("method", METHODS)
def test_layers_of_zeros_are_quantized(graph: Graph, images: np.ndarray, method: str) -> None:
    layer = graph.by_name["right"]
    dead = replace_layer(graph, "right", weight=np.zeros_like(layer.weight), bias=np.zeros_like(layer.bias))
    quantized = quantize(dead, images, method=method)
    assert not quantized.by_name["right"].weight.any()
    expected = float_logits(dead, images)
    assert np.abs(execute(quantized, images) - expected).max() < 0.15 * np.abs(expected).max()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf")])
def test_a_weight_that_is_not_a_number_names_its_layer(graph: Graph, images: np.ndarray, value: float, word: str) -> None:
    weight = graph.by_name["narrow"].weight.copy()
    weight[1, 0, 0, 2] = value
    with pytest.raises(QuantizationError, match=rf"'narrow': weight is {word} at index \(1, 0, 0, 2\)"):
        quantize(replace_layer(graph, "narrow", weight=weight), images)


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_overflow_name_their_layer(graph: Graph, images: np.ndarray, method: str) -> None:
    huge = np.full_like(graph.by_name["left"].weight, 3e38)
    with pytest.raises(QuantizationError, match="'left' puts out"):
        quantize(replace_layer(graph, "left", weight=huge), images, method=method)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "constant images"),
        (np.full((4, 8, 8, 3), np.nan, np.float32), "image 0 has NaN"),
        (np.zeros((4, 3, 8, 8), np.float32), "takes \\(N, 8, 8, 3\\)"),
        (np.zeros((0, 8, 8, 3), np.float32), "N >= 1"),
        (np.zeros((4, 8, 8, 3), np.uint8), "uint8, expected float32"),
    ],
)
def test_images_that_cannot_calibrate(graph: Graph, bad: np.ndarray, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize(graph, bad)


def test_fewer_images_than_asked(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match="100 calibration images were asked for, 40 are there"):
        quantize(graph, images, expected_images=100)


def test_a_graph_without_weights(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match=r"'stem.0' has no weights"):
        quantize(replace_layer(graph, "stem.0", weight=None, bias=None), images)


def test_bits_and_methods_that_do_not_exist(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match="16 bits"):
        quantize(graph, images, bits=16)
    with pytest.raises(QuantizationError, match="unknown quantization method 'minmax'"):
        quantize(graph, images, method="minmax")  # type: ignore[arg-type]


def test_what_is_quantized_already_is_not_quantized_again(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match=r"is quantized already; give the float Graph that `lower` made"):
        quantize(quantize(graph, images, method="vitis"), images, method="vitis")


def test_what_is_no_graph_and_what_are_no_arrays_is_refused_with_what_was_meant(graph: Graph, images: np.ndarray) -> None:
    with pytest.raises(QuantizationError, match="of type Fire, expected the Graph that `lower` makes of a torch network"):
        quantize(Fire(), images)  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"of type Tensor, expected a numpy array .* images\.permute\(0, 2, 3, 1\)"):
        quantize(graph, torch.from_numpy(images))  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"of type list, expected a numpy array, \(N, 8, 8, 3\)"):
        execute(quantize(graph, images, method="vitis"), images.tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": -1}, "the seed is -1, expected a whole number from 0 to"),
        ({"seed": "0"}, "the seed is '0', expected a whole number"),
        ({"bits": "8"}, "'8' bits were asked for"),
        ({"device": "tpu:7"}, "device 'tpu:7' cannot be used here"),
    ],
)
def test_settings_that_are_none_are_refused(network: Graph, images: np.ndarray, given: dict[str, Any], words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        quantize(network, images, **given)


class ClippedTwice(nn.Module):
    """The image behind a ReLU, and that twice in a concat, which rounds for its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        return self.conv(torch.cat([x, x], 1)).mean((2, 3))


@pytest.mark.parametrize("method", [*METHODS, "per_channel"])
def test_an_image_that_only_a_concat_rounds_has_its_position(images: np.ndarray, method: Any) -> None:
    torch.manual_seed(0)
    graph = lower(ClippedTwice(), (3, 8, 8))
    quantized = quantize(graph, images, method=method)
    (concat,) = (node for node in quantized if node.name == "cat")
    assert quantized.input.fix == concat.fix is not None
    difference = np.abs(execute(quantized, images) - float_logits(graph, images))
    assert difference.max() < 0.05


class Leaky(nn.Module):
    def __init__(self, *, first: float, second: float, bias: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        with torch.no_grad():
            self.a.weight *= first
            self.b.weight *= second
            self.b.bias *= bias  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.a, self.b):
            x = nn.functional.leaky_relu(layer(x), 26 / 256)
        return self.c(x).mean((2, 3))


@pytest.mark.parametrize(("first", "second", "bias"), [(8, 16, 0.1), (32, 16, 1), (32, 16, 0.01), (1, 1, 1), (8, 4, 0.01)])
def test_what_is_quantized_behind_leaky_relus_can_be_compiled(
    images: np.ndarray, first: float, second: float, bias: float
) -> None:
    torch.manual_seed(0)
    graph = lower(Leaky(first=first, second=second, bias=bias), (3, 8, 8))
    quantized = quantize(graph, images, method="best")
    compile_graph(quantized, DPUS["B4096"], Options(allow=frozenset({"leaky_relu"})))
    difference = np.abs(execute(quantized, images) - float_logits(graph, images))
    assert difference.max() < 0.1 * np.abs(float_logits(graph, images)).max()


class Far(nn.Module):
    """A sum of numbers that no two positions of an add hold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.a.weight *= 1e13
            self.b.weight *= 1e-4
            self.b.bias *= 1e-4  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a(x) + self.b(x)).mean((2, 3))


def test_a_rival_that_cannot_be_executed_is_none(images: np.ndarray) -> None:
    torch.manual_seed(0)
    graph = lower(Far(), (3, 8, 8))
    with pytest.raises(QuantizationError, match="too far apart"):
        execute(quantize(graph, images, method="vitis"), images)
    assert np.isfinite(execute(quantize(graph, images, method="best"), images)).all()


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_numpy_are_numbers(graph: Graph, images: np.ndarray, method: Any) -> None:
    own, numpys = (quantize(graph, images, method=method, bits=kind(6), seed=kind(3)) for kind in (int, np.int64))
    json.dumps(graph_to_json(numpys)[0])
    assert np.array_equal(execute(own, images), execute(numpys, images))
    with pytest.raises(QuantizationError, match="expected a whole number from 0 to 9223372036854775807"):
        quantize(graph, images, method=method, seed=2**70)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lower(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)), (3, 8, 8))", "an output of shape"),
        ("lower(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)), (3, 4, 4))", "an input of shape"),
    ],
)
def test_a_quantizer_of_ones_own_gives_the_network_that_it_was_given(tmp_path: Path, change: str, said: str) -> None:
    (tmp_path / "other_quantizer.py").write_text(
        "import numpy, torch\nfrom edgesearch.board_eval import lower\nfrom edgesearch.objectives import quantize\n"
        f"def other(graph, images, **more):\n    made = {change}\n"
        "    images = numpy.random.default_rng(0).normal(size=(2, *made.input.shape)).astype('f4')\n"
        "    return quantize(made, images, method='vitis')\n"
    )
    graph = lower(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (3, 8, 8))
    with pytest.raises(QuantizationError, match=said):
        quantize(
            graph,
            np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32),
            method="other_quantizer:other",
            folder=tmp_path,
        )
