"""What every quantizer must do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from edgesearch.board_eval.execution import execute, run_float
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
    limits,
    weight_integers,
)
from edgesearch.board_eval.targets import Limits
from edgesearch.objectives.quantization import Quantizer


class QuantizerContract:
    """Subclass it, override `make`, and pytest collects tests of your quantizer."""

    #: Largest error of an 8-bit network's logits, as a share of the largest float logit.
    tolerance = 0.15
    #: True for a quantizer, for analysis, whose weights have a fix position for each output channel: no DPU's tensor has those,
    #: so that its shifts are not looked at, and its integers have more bits where they are given at one position.
    per_channel = False

    def make(self) -> Quantizer:
        """The quantizer under test."""
        raise NotImplementedError

    @pytest.fixture
    def network(self) -> Graph:
        """A float network of most kinds of node."""
        return small_network(np.random.default_rng(0))

    @pytest.fixture
    def images(self) -> npt.NDArray[np.float32]:
        """Images (24, 8, 8, 3)."""
        return np.random.default_rng(1).normal(0, 0.5, (24, 8, 8, 3)).astype(np.float32)

    @pytest.mark.parametrize("bits", [8, 5])
    def test_weights_and_biases_are_integers_of_the_asked_bits(
        self, network: Graph, images: npt.NDArray[np.float32], bits: int
    ) -> None:
        quantized = self.make()(network, images, bits=bits, seed=0, device="cpu")
        assert (quantized.quantized, quantized.bits) == (True, bits)
        low, high = limits(bits)
        for node in layers(quantized):
            weight, bias = weight_integers(node, bits, per_channel=self.per_channel)
            stored = _stored(node, weight)
            assert low <= stored.min() <= stored.max() <= high
            np.testing.assert_array_equal(np.ldexp(weight, -(node.weight_fix or 0)), node.weight)
            if bias is not None:
                np.testing.assert_array_equal(np.ldexp(bias, -(node.bias_fix or 0)), node.bias)

    def test_shifts_are_those_the_dpu_can_do(self, network: Graph, images: npt.NDArray[np.float32]) -> None:
        if self.per_channel:
            pytest.skip("no DPU shifts each channel by its own number of bits")
        quantized = self.make()(network, images, bits=8, seed=0, device="cpu")
        for node in layers(quantized):
            fix_in, fix_out = quantized.fix_of(node.inputs[0]), _position(quantized, node)
            assert fix_in is not None
            assert node.weight_fix is not None
            cut = node.weight_fix + fix_in - fix_out
            assert 0 <= cut <= Limits.shift_cut, node.name
            if node.bias_fix is not None:
                least, most = Limits.bias_shifts(cut)
                assert least <= node.weight_fix + fix_in - node.bias_fix <= most, node.name

    def test_structure_stays(self, network: Graph, images: npt.NDArray[np.float32]) -> None:
        quantized = self.make()(network, images, bits=8, seed=0, device="cpu")
        assert [(n.name, n.inputs, n.shape) for n in quantized] == [(n.name, n.inputs, n.shape) for n in network]

    def test_the_network_given_is_not_changed(self, images: npt.NDArray[np.float32]) -> None:
        network, same = (small_network(np.random.default_rng(0)) for _ in range(2))
        self.make()(network, images, bits=8, seed=0, device="cpu")
        for node, before in zip(layers(network), layers(same), strict=True):
            np.testing.assert_array_equal(node.weight, before.weight)
            np.testing.assert_array_equal(node.bias, before.bias)
            assert node.fix is node.weight_fix is node.bias_fix is None

    def test_integers_stay_close_to_the_float_network(self, network: Graph, images: npt.NDArray[np.float32]) -> None:
        quantized = self.make()(network, images, bits=8, seed=0, device="cpu")
        expected = run_float(network, images)
        assert np.abs(execute(quantized, images) - expected).max() < self.tolerance * np.abs(expected).max()

    @pytest.mark.parametrize("count", [1, 3])
    def test_few_images_are_enough(self, network: Graph, images: npt.NDArray[np.float32], count: int) -> None:
        quantized = self.make()(network, images[:count], bits=8, seed=0, device="cpu")
        assert quantized.quantized
        assert np.isfinite(execute(quantized, images)).all()

    def test_the_same_arguments_give_the_same_network(self, network: Graph, images: npt.NDArray[np.float32]) -> None:
        one, two = (self.make()(network, images, bits=8, seed=3, device="cpu") for _ in range(2))
        for a, b in zip(one, two, strict=True):
            assert a.fix == b.fix
        for x, y in zip(layers(one), layers(two), strict=True):
            np.testing.assert_array_equal(x.weight, y.weight)
            np.testing.assert_array_equal(x.bias, y.bias)


def layers(graph: Graph) -> Iterator[Conv | Depthwise | Linear]:
    """The nodes with weights, in execution order."""
    return (node for node in graph if isinstance(node, Conv | Depthwise | Linear))


def _stored(node: Conv | Depthwise | Linear, weight: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Integers at the node's finest position as each output channel has them at its own; output channels come first."""
    channels = np.moveaxis(weight, -1, 0) if isinstance(node, Depthwise) else weight
    finest = node.weight_fix or 0
    fixes = np.array(node.channel_fix or [finest] * len(channels))
    stored: npt.NDArray[np.float64] = np.ldexp(channels.reshape(len(channels), -1), fixes[:, None] - finest)
    return stored


def _position(graph: Graph, node: Node) -> int:
    """Where a value is rounded: its own fix position or that of the first reader that has one."""
    while node.fix is None:
        node = graph.consumers[node.name][0]
    return node.fix


def small_network(rng: np.random.Generator) -> Graph:
    """(8, 8, 3) images to 4 logits: convolutions, a depthwise one, an add, a concat, both pools, a linear layer."""

    def conv(name: str, source: str, before: int, channels: int, kernel: int, *, relu: bool = True) -> Conv:
        half = kernel // 2
        return Conv(
            name=name,
            inputs=(source,),
            shape=(8, 8, channels),
            kernel=(kernel, kernel),
            padding=(half, half, half, half),
            weight=rng.normal(0, before**-0.5 / kernel, (channels, kernel, kernel, before)).astype(np.float32),
            bias=rng.normal(0, 0.1, channels).astype(np.float32),
            activation="relu" if relu else "none",
        )

    depthwise = Depthwise(
        name="depthwise",
        inputs=("joined",),
        shape=(8, 8, 16),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        weight=rng.normal(0, 0.3, (3, 3, 16)).astype(np.float32),
        bias=rng.normal(0, 0.1, 16).astype(np.float32),
        activation="relu6",
    )
    weight, bias = rng.normal(0, 0.4, (4, 8)).astype(np.float32), rng.normal(0, 0.1, 4).astype(np.float32)
    nodes: tuple[Node, ...] = (
        Input(name="image", inputs=(), shape=(8, 8, 3)),
        conv("stem", "image", 3, 8, 3),
        conv("left", "stem", 8, 8, 1),
        conv("right", "stem", 8, 8, 3),
        Concat(name="joined", inputs=("left", "right"), shape=(8, 8, 16)),
        depthwise,
        conv("narrow", "depthwise", 16, 8, 1, relu=False),
        Add(name="sum", inputs=("narrow", "stem"), shape=(8, 8, 8), activation="relu"),
        Pool(name="max", inputs=("sum",), shape=(4, 4, 8), kind="max", kernel=(2, 2), stride=(2, 2)),
        Pool(
            name="mean",
            inputs=("max",),
            shape=(1, 1, 8),
            kind="avg",
            kernel=(4, 4),
            stride=(4, 4),
            is_global=True,
            factor=average_factor((4, 4)),
        ),
        Reshape(name="flat", inputs=("mean",), shape=(8,)),
        Linear(name="classes", inputs=("flat",), shape=(4,), weight=weight, bias=bias),
    )
    return Graph("Small", nodes)
