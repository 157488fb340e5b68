from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.execution._execute import execute
from edgesearch.board_eval.graph import Conv, Graph, Input, Pool
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.onnx._writer import write_onnx
from edgesearch.errors import GraphError, QuantizationError
from edgesearch.objectives.quantization import quantize

ort = pytest.importorskip("onnxruntime")


def run(path: Path, images: np.ndarray, *, optimise: bool = True) -> np.ndarray:
    """Logits from onnxruntime on the CPU for images (N, H, W, C)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]


@pytest.mark.parametrize("name", ["squeezenet", "resnet20", "tiny"])
@pytest.mark.parametrize("optimise", [True, False])
def test_onnxruntime_computes_amds_logits_without_a_warning(
    name: str, optimise: bool, golden: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = golden(name)
    write_onnx(network.graph, tmp_path / "a.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
    np.testing.assert_array_equal(run(tmp_path / "a.onnx", network.images[:4], optimise=optimise), network.logits[:4])
    captured = capfd.readouterr()
    assert captured.err + captured.out == ""


@pytest.mark.slow
def test_top_1_of_resnet20_is_the_same_on_all_test_images(golden: Any, reference_data: Path, tmp_path: Path) -> None:
    from PIL import Image

    grid = np.asarray(Image.open(reference_data / "cifar10" / "test.webp").convert("RGB"))
    images = grid.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(10000, 32, 32, 3)
    images = ((images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)
    network = golden("resnet20")
    write_onnx(network.graph, tmp_path / "a.onnx")
    logits = np.concatenate([run(tmp_path / "a.onnx", images[i : i + 500]) for i in range(0, 10000, 500)])
    expected = np.load(network.folder / "nndct_logits_test10000.npz")["nndct_logits"]
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.999
    assert (logits == expected).mean() >= 0.9999


@pytest.mark.parametrize("fix", [1, 2, 3, 4, 5])
def test_large_sums_behind_a_leaky_relu_are_rounded_once(fix: int, tmp_path: Path) -> None:
    source = Input(name="in", inputs=(), shape=(1, 1, 16), fix=5)
    weight = np.repeat(np.array([64, 63, -127], np.float32) / 64, 16).reshape(3, 1, 1, 16)
    common: dict[str, Any] = {"inputs": ("in",), "shape": (1, 1, 3), "kernel": (1, 1), "has_bias": False}
    layer = Conv(name="conv", weight=weight, weight_fix=6, fix=fix, activation="leaky_relu", **common)
    graph = Graph("Leaky", (source, layer))
    images = np.repeat(np.arange(-128, 128, dtype=np.float32) / 32, 16).reshape(256, 1, 1, 16)
    write_onnx(graph, tmp_path / "leaky.onnx")
    np.testing.assert_array_equal(run(tmp_path / "leaky.onnx", images).reshape(256, 3), execute(graph, images).reshape(256, 3))


def test_a_layer_may_be_called_as_the_image_is(tmp_path: Path) -> None:
    """A leaky ReLU and the image are rounded by operations of one kind, each with its own names."""
    source = Input(name="x", inputs=(), shape=(1, 1, 4), fix=5)
    weight = (np.arange(-8, 8, dtype=np.float32) / 8).reshape(4, 1, 1, 4)
    common: dict[str, Any] = {"inputs": ("x",), "shape": (1, 1, 4), "kernel": (1, 1), "has_bias": False}
    layer = Conv(name="input", weight=weight, weight_fix=6, fix=4, activation="leaky_relu", **common)
    graph = Graph("Named", (source, layer))
    write_onnx(graph, tmp_path / "named.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "named.onnx"))
    images = (np.arange(64, dtype=np.float32).reshape(16, 1, 1, 4) - 32) / 16
    np.testing.assert_array_equal(run(tmp_path / "named.onnx", images).reshape(16, 4), execute(graph, images).reshape(16, 4))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_networks_run_as_the_dpu_does(random_networks: Any, tmp_path: Path, data: st.DataObject) -> None:
    graph, images = data.draw(random_networks)
    graph = dataclasses.replace(graph, bits=8)
    try:
        write_onnx(graph, tmp_path / "a.onnx")
    except QuantizationError as error:
        if "lie in the padding" not in str(error):
            raise
        reject()
    reals = np.ldexp(images.astype(np.float32), -graph.input.fix)
    ours, theirs = execute(graph, images), run(tmp_path / "a.onnx", reals)
    np.testing.assert_array_equal(ours, theirs)


def test_input_values_half_way_between_integers_go_up(golden: Any, tmp_path: Path) -> None:
    graph = golden("tiny").graph
    write_onnx(graph, tmp_path / "a.onnx")
    ties = (np.arange(27 * 27 * 3).reshape(1, 27, 27, 3) % 256 - 127.5).astype(np.float32) / 2**graph.input.fix
    np.testing.assert_array_equal(run(tmp_path / "a.onnx", ties), execute(graph, ties))


def test_a_network_that_is_not_quantized_to_8_bits_is_refused(golden: Any, tmp_path: Path) -> None:
    graph = golden("tiny").graph
    unrounded = dataclasses.replace(graph.output, fix=None)
    with pytest.raises(QuantizationError, match="has no fix position"):
        write_onnx(graph.replace({graph.output.name: unrounded}), tmp_path / "a.onnx")
    with pytest.raises(QuantizationError, match="5 bits"):
        write_onnx(Graph(graph.name, graph.nodes, 5), tmp_path / "a.onnx")
    with pytest.raises(GraphError, match="cannot be written: No such file"):
        write_onnx(graph, tmp_path / "nowhere" / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shift", [-1, 0, 1, 3])
@pytest.mark.parametrize("kernel", [(1, 2), (2, 3), (3, 3), (1, 5), (2, 5), (1, 6), (3, 4), (4, 5), (1, 7)])
def test_ties_of_plain_means_go_up(kernel: tuple[int, int], shift: int, tmp_path: Path) -> None:
    """Of a mean that no DPU computes, every sum that a window may have on either side of each tie."""
    pixels = kernel[0] * kernel[1]
    pool = Pool(name="p", inputs=("in",), shape=(1, 1, 1), kind="avg", kernel=kernel, stride=(1, 1), fix=3)
    graph = Graph("mean", (Input(name="in", inputs=(), shape=(*kernel, 1), fix=3 + shift), pool))
    write_onnx(graph, tmp_path / "a.onnx")
    sums = np.arange(-128 * pixels, 127 * pixels + 1)
    images = np.stack([np.array([(total + i) // pixels for i in range(pixels)]) for total in sums]).astype(np.int8)
    assert (images.sum(1) == sums).all()
    images = images.reshape(-1, *kernel, 1)
    reals = np.ldexp(images.astype(np.float32), -graph.input.fix)  # type: ignore[operator]
    np.testing.assert_array_equal(execute(graph, images), run(tmp_path / "a.onnx", reals))


def test_names_that_come_together_stay_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {
        "a": nn.Conv2d(3, 4, 1),
        "leaky": nn.LeakyReLU(0.1),
        "a_leaky": nn.Conv2d(4, 4, 1),
        "relu": nn.ReLU(),
        "a_leaky_relu": nn.Conv2d(4, 4, 1),
    }
    model = nn.Sequential(OrderedDict(layers))
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    quantized = quantize(lower(model, (3, 4, 4)), images)
    write_onnx(quantized, tmp_path / "a.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
    found = run(tmp_path / "a.onnx", images).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found.reshape(execute(quantized, images).shape), execute(quantized, images))
