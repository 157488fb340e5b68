from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.execution import Network, _exact, to_tensor
from edgesearch.board_eval.execution._execute import Executor, execute, execute_all, run_float
from edgesearch.board_eval.execution._reference import reference_values
from edgesearch.board_eval.graph._arithmetic import round_activations, round_weights
from edgesearch.board_eval.graph._graph import Conv, Graph, Input, Reshape, without_weights
from edgesearch.board_eval.graph._names import fix_names
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.errors import QuantizationError

# -- golden networks


@pytest.mark.parametrize(("name", "count"), [("squeezenet", 75), ("resnet20", 77), ("tiny", 36)])
def test_every_fix_tensor_equals_what_amds_runner_computed(name: str, count: int, golden: Any) -> None:
    network = golden(name)
    for image, expected in network.fix_tensors().items():
        ours = execute_all(network.graph, network.images[image : image + 1])
        assert len(expected) == count
        assert set(ours) == set(expected)
        differing = [key for key in expected if not np.array_equal(ours[key], expected[key])]
        assert differing == []


@pytest.mark.parametrize("name", ["squeezenet", "resnet20", "tiny"])
def test_logits_equal_amds(name: str, golden: Any) -> None:
    network = golden(name)
    np.testing.assert_array_equal(execute(network.graph, network.images), network.logits)


def test_quantized_images_give_the_same_logits(golden: Any) -> None:
    network = golden("resnet20")
    images = round_activations(network.images, network.graph.input.fix).astype(np.int8)
    np.testing.assert_array_equal(execute(network.graph, images), network.logits)


@pytest.fixture(scope="module")
def cifar10_test_images(reference_data: Path) -> np.ndarray:
    from PIL import Image

    grid = np.asarray(Image.open(reference_data / "cifar10" / "test.webp").convert("RGB"))
    images = grid.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(10000, 32, 32, 3)
    return ((images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)


@pytest.mark.slow
def test_logits_of_resnet20_equal_nndcts_on_all_test_images(golden: Any, cifar10_test_images: np.ndarray) -> None:
    network = golden("resnet20")
    expected = np.load(network.folder / "nndct_logits_test10000.npz")["nndct_logits"]
    np.testing.assert_array_equal(execute(network.graph, cifar10_test_images), expected)


# -- random networks against the slow reference


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_random_networks_equal_the_slow_reference(random_networks: Any, data: st.DataObject) -> None:
    graph, images = data.draw(random_networks)
    ours, names = execute_all(graph, images), fix_names(graph)
    for i, image in enumerate(images):
        for node, expected in reference_values(graph, image).items():
            np.testing.assert_array_equal(ours[names[node].output][i], expected, err_msg=node)
    logits = np.ldexp(ours[names["fc"].output].astype(np.float32), -graph.output.fix)
    np.testing.assert_array_equal(execute(graph, images, batch=1), logits)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_form_used_on_other_devices_computes_the_same(random_networks: Any, data: st.DataObject) -> None:
    graph, images = data.draw(random_networks)
    before = _exact._DIRECT_ONEDNN
    expected = execute(graph, images)
    try:
        _exact._DIRECT_ONEDNN = False
        np.testing.assert_array_equal(execute(graph, images), expected)
    finally:
        _exact._DIRECT_ONEDNN = before


# -- exactness at the edge of float32


def _dense(channels: int, kernel: int, weight: float, fix: int) -> Graph:
    weights = np.full((16, kernel, kernel, channels), weight, np.float32)
    size = kernel + 1
    nodes = (
        Input(name="in", inputs=(), shape=(size, size, channels), fix=0),
        Conv(
            name="c",
            inputs=("in",),
            shape=(2, 2, 16),
            kernel=(kernel, kernel),
            weight=weights,
            bias=np.ones(16, np.float32),
            weight_fix=0,
            bias_fix=0,
            fix=fix,
        ),
        Reshape(name="r", inputs=("c",), shape=(64,)),
    )
    return Graph("Dense", nodes)


@pytest.mark.parametrize("channels", [50, 114, 115, 4000])
def test_sums_beyond_24_bits_stay_exact(channels: int) -> None:
    graph = _dense(channels, 3, 127, -20)
    images = np.full((1, 4, 4, channels), 127, np.int8)
    images[..., ::2] = 126
    total = int((images[0, :3, :3].astype(np.int64) * 127).sum()) + 1
    expected = min((total + 2**19) // 2**20, 127)
    assert (execute_all(graph, images)["Dense__c_fix"] == expected).all()


def test_the_last_bit_of_a_sum_beyond_24_bits_decides_a_tie() -> None:
    graph = _dense(2000, 3, 0, -21)
    weight = graph.by_name["c"].weight.copy()
    images = np.full((1, 4, 4, 2000), 127, np.int8)
    images[..., 0] = 1
    target = 17 * 2**20 - 1  # the bias of 1 makes it a tie exactly half-way between 8 and 9
    full, rest = divmod(target, 127 * 127)
    flat = weight.reshape(16, 9, 2000)
    for out in range(16):
        places = flat[out, :, 1:].reshape(-1)
        places[:full] = 127
        places[full] = rest // 127
        flat[out, :, 1:] = places.reshape(9, 1999)
        flat[out, 0, 0] = rest % 127 - out % 2  # every second sum is one below the tie
    node = dataclasses.replace(graph.by_name["c"], weight=weight)
    got = execute_all(graph.replace({"c": node}), images)["Dense__c_fix"][0, 0, 0]
    assert got.tolist() == [9, 8] * 8


def test_layers_that_cannot_be_exact_are_refused() -> None:
    graph = _dense(4, 3, 127, 0)
    far = dataclasses.replace(graph.by_name["c"], bias_fix=64)
    with pytest.raises(QuantizationError, match=r"'c'.*too far apart"):
        execute(graph.replace({"c": far}), np.zeros((1, 4, 4, 4), np.int8))


# -- rounding


def test_input_rounds_half_up_saturates_and_is_not_fooled_by_float32() -> None:
    nodes = (Input(name="in", inputs=(), shape=(1, 1, 8), fix=0), Reshape(name="r", inputs=("in",), shape=(8,)))
    values = np.array([0.5, -0.5, -1.5, 2.5, 0.49999997, -0.50000006, 300.0, -300.0], np.float32)
    logits = execute(Graph("G", nodes), values.reshape(1, 1, 1, 8))
    assert logits.tolist() == [[1.0, 0.0, -1.0, 3.0, 0.0, -1.0, 127.0, -128.0]]


def test_weights_off_the_grid_are_rounded_half_away_from_zero() -> None:
    assert round_weights([0.5, -0.5, 1.49, -2.5, 400.0, -400.0], 0).tolist() == [1, -1, 1, -3, 127, -128]
    assert round_weights([0.5, -0.5, 1.49, -2.5, 400.0, -400.0], 0, bits=5).tolist() == [1, -1, 1, -3, 15, -16]
    assert round_activations([0.5, -0.5, -1.5], 0).tolist() == [1, 0, -1]


def test_five_bit_networks_stay_within_five_bits(golden: Any) -> None:
    graph = dataclasses.replace(golden("tiny").graph, bits=5)
    tensors = execute_all(graph, golden("tiny").images)
    assert all(t.min() >= -16 and t.max() <= 15 for t in tensors.values())
    assert any(t.max() == 15 for t in tensors.values())


# -- the float network


def test_float_network_equals_torch(resnet20_float: Any) -> None:
    graph = lower(resnet20_float, (3, 32, 32))
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = resnet20_float(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(run_float(graph, images, batch=2), expected, atol=1e-4)


def test_float_values_of_chosen_nodes(golden: Any) -> None:
    graph, images = golden("tiny").graph, golden("tiny").images
    values = run_float(graph, images, keep=["Tiny__input_0", "c1_relu"])
    assert {name: value.shape for name, value in values.items()} == {"Tiny__input_0": (4, 27, 27, 3), "c1_relu": (4, 13, 13, 8)}
    np.testing.assert_array_equal(values["Tiny__input_0"], images)
    with pytest.raises(QuantizationError, match="nobody"):
        run_float(graph, images, keep=["nobody"])


def test_the_reference_takes_plain_means_and_quantizers_the_dpus() -> None:
    """Both are one interpreter, whose values differ in this alone."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU6(), torch.nn.AvgPool2d(3), torch.nn.Conv2d(8, 4, 1))
    graph = lower(model.eval(), (1, 8, 8))
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    with torch.inference_mode():
        expected = model(to_tensor(images)).numpy()
        np.testing.assert_allclose(
            Network.of(graph, reference=True).logits(to_tensor(images)), expected.reshape(3, -1), atol=1e-6
        )
        scaled = model[3](model[2](model[1](model[0](to_tensor(images)))) * (9 * 7 / 64)).numpy()  # 3 x 3: sums times 7 / 64
        np.testing.assert_allclose(Network.of(graph).logits(to_tensor(images)), scaled.reshape(3, -1), atol=1e-6)
    np.testing.assert_allclose(run_float(graph, images), expected.transpose(0, 2, 3, 1), atol=1e-6)


def test_a_network_of_shapes_alone_has_no_values() -> None:
    graph = without_weights(lower(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3)), (1, 8, 8)))
    with pytest.raises(QuantizationError, match="'0' has no weights, only shapes"):
        Network.of(graph)


# -- bad input


def test_images_that_do_not_fit_are_refused(golden: Any) -> None:
    graph, images = golden("tiny").graph, golden("tiny").images
    with pytest.raises(QuantizationError, match=r"\(4, 27, 27\), expected \(N, 27, 27, 3\)"):
        execute(graph, images[..., 0])
    with pytest.raises(QuantizationError, match="N >= 1"):
        execute(graph, images[:0])
    with pytest.raises(QuantizationError, match="float64, expected float32"):
        execute(graph, images.astype(np.float64))
    broken = images.copy()
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(QuantizationError, match="image 2 has NaN"):
        execute(graph, broken)
    with pytest.raises(QuantizationError, match="5 bits hold"):
        execute(dataclasses.replace(graph, bits=5), np.full((1, 27, 27, 3), 100, np.int8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": None}, "'c5' has no weights"),
        ({"weight_fix": None}, "'c5' has weights without a fix position"),
        ({"bias": np.array([0, 0, np.inf, 0, 0, 0, 0, 0], np.float32)}, r"'c5': bias is inf at index \(2,\)"),
        ({"fix": None}, "'c5' has no fix position and is read by 'c6_relu'"),
    ],
)
def test_networks_that_are_not_quantized_are_refused(change: dict[str, Any], message: str, golden: Any) -> None:
    graph, images = golden("tiny").graph, golden("tiny").images
    node = dataclasses.replace(graph.by_name["c5"], **change)
    with pytest.raises(QuantizationError, match=message):
        execute(graph.replace({"c5": node}), images)


def test_an_executor_may_be_used_again(golden: Any) -> None:
    network = golden("tiny")
    executor = Executor(network.graph)
    for batch in (1, 3, None):
        np.testing.assert_array_equal(executor.logits(network.images, batch=batch), network.logits)


@pytest.mark.parametrize("run", [execute, execute_all, run_float])
def test_what_is_no_network_and_a_device_that_is_not_there_are_refused(run: Any) -> None:
    images = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(QuantizationError, match="the network is of type NoneType, expected a Graph"):
        run(None, images)
    graph = Graph("image", (Input(name="image", inputs=(), shape=(8, 8, 3), fix=6),))
    with pytest.raises(QuantizationError, match=r"device 'tpu:7' cannot be used here .*; try 'cpu'"):
        run(graph, images, device="tpu:7")


@pytest.mark.parametrize("batch", [-1, 0, 0.5, "3", True])
def test_a_batch_is_a_number_of_images(golden: Any, batch: Any) -> None:
    network = golden("tiny")
    for run in (execute, run_float):
        with pytest.raises(QuantizationError, match=r"the batch is .*, expected a number of images, at least 1"):
            run(network.graph, network.images[:3], batch=batch)
    assert np.array_equal(execute(network.graph, network.images[:3], batch=np.int64(2)), network.logits[:3])
