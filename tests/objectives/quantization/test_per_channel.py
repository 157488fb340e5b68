"""A fix position for each output channel's weights: computed exactly, closer to the float network, and in no file for a DPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import Dpu, compile_xmodel, find_board, write_onnx, write_xmodel
from edgesearch.board_eval.execution import Network, execute, run_float, to_tensor
from edgesearch.board_eval.execution._reference import reference_values
from edgesearch.board_eval.graph import (
    Conv,
    Depthwise,
    Graph,
    Linear,
    graph_from_json,
    graph_to_json,
    limits,
    quantize_images,
    weight_integers,
)
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization import quantize
from edgesearch.objectives.quantization._per_channel import quantize_per_channel
from edgesearch.objectives.quantization._vitis import Calibration


def layers(graph: Graph) -> list[Conv | Depthwise | Linear]:
    return [node for node in graph if isinstance(node, Conv | Depthwise | Linear)]


def uneven(network: Graph) -> Graph:
    """The network with weights of channels that differ by up to 2^6."""
    rng = np.random.default_rng(3)

    def put(node: Conv | Depthwise | Linear) -> Conv | Depthwise | Linear:
        scale = 2.0 ** rng.uniform(-6, 0, node.shape[-1])
        outputs = node.weight.ndim - 1 if isinstance(node, Depthwise) else 0  # type: ignore[union-attr]
        shape = [-1 if axis == outputs else 1 for axis in range(node.weight.ndim)]  # type: ignore[union-attr]
        return dataclasses.replace(node, weight=(node.weight * scale.reshape(shape)).astype(np.float32))

    return network.map(lambda node: put(node) if isinstance(node, Conv | Depthwise | Linear) else node)


@pytest.mark.parametrize("bits", [8, 5])
def test_every_channel_has_integers_of_its_own_position(network: Graph, images: np.ndarray, bits: int) -> None:
    quantized = quantize(uneven(network), images, method="per_channel", bits=bits)
    low, high = limits(bits)
    several = 0
    for node in layers(quantized):
        assert node.channel_fix is not None
        assert node.weight_fix == max(node.channel_fix)
        outputs = node.weight.ndim - 1 if isinstance(node, Depthwise) else 0
        for fix, channel in zip(node.channel_fix, np.moveaxis(node.weight, outputs, 0), strict=True):
            integers = np.ldexp(channel.astype(np.float64), fix)
            assert (integers == np.rint(integers)).all()
            assert low <= integers.min() <= integers.max() <= high
        whole, _ = weight_integers(node, bits, per_channel=True)
        np.testing.assert_array_equal(np.ldexp(whole.astype(np.float64), -node.weight_fix), node.weight)
        several += len(set(node.channel_fix)) > 1
    assert several


def test_the_integers_are_computed_exactly(network: Graph, images: np.ndarray) -> None:
    """As fractions compute them, one image after another."""
    quantized = quantize(uneven(network), images, method="per_channel")
    fix = quantized.input.fix
    assert fix is not None
    for image, logits in zip(quantize_images(images[:2], fix), execute(quantized, images[:2]), strict=True):
        slow = reference_values(quantized, image)[quantized.output.name]
        position = quantized.fix_of(quantized.output.name)
        np.testing.assert_array_equal(np.ldexp(slow.astype(np.float64), -(position or 0)).ravel(), logits.ravel())


def test_channels_of_different_sizes_lose_less_than_with_one_position(network: Graph, images: np.ndarray) -> None:
    given = uneven(network)
    plain = Calibration(Network.of(given), 8)  # the same steps with one position for each tensor
    for image in to_tensor(images).split(1):
        plain.show(image.contiguous())
    together = {node.name: node.weight for node in layers(plain.finish())}
    exact = {node.name: node.weight for node in layers(given)}
    for node in layers(quantize_per_channel(given, images)):
        error = np.square(node.weight - exact[node.name]).sum()
        assert error <= np.square(together[node.name] - exact[node.name]).sum() * (1 + 1e-6)
    expected = run_float(given, images)
    assert np.abs(execute(quantize_per_channel(given, images), images) - expected).max() < 0.2 * np.abs(expected).max()


def test_it_is_kept_like_others_and_no_file_for_a_board_is_made(network: Graph, images: np.ndarray, tmp_path: Path) -> None:
    quantized = quantize(network, images, method="per_channel")
    content, arrays = graph_to_json(quantized)
    again = graph_from_json(json.loads(json.dumps(content)), arrays)
    np.testing.assert_array_equal(execute(again, images), execute(quantized, images))
    dpu = find_board("zcu104").target
    assert isinstance(dpu, Dpu)
    with pytest.raises(QuantizationError, match="for each output channel, and a DPU's tensor has one"):
        write_xmodel(quantized, tmp_path / "a.xmodel")
    with pytest.raises(QuantizationError, match="for each output channel"):
        write_onnx(quantized, tmp_path / "a.onnx")
    with pytest.raises(QuantizationError, match="for each output channel"):
        compile_xmodel(quantized, dpu, images=images[:2])
    assert not list(tmp_path.iterdir())
