from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import _exact
from edgesearch.board_eval._execute import Executor, execute, execute_all, run_float
from edgesearch.board_eval._graph import (
    Activation,
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
    infer_shape,
)
from edgesearch.board_eval._integers import round_activations, round_weights
from edgesearch.board_eval._lowering import lower
from edgesearch.board_eval._names import fix_names
from edgesearch.board_eval._reference import reference_values
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

POSITIONS = st.integers(-3, 9)
ACTIVATIONS = st.sampled_from(["none", "relu", "relu6", "leaky_relu"])


def _pads(largest: int = 2) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(0, largest)] * 4)


class _Builder:
    """Draws a network node by node; every tensor that is not read ends up in the final concat."""

    def __init__(self, draw: st.DrawFn, bits: int) -> None:
        self.draw = draw
        self.bits = bits
        shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3)))
        self.nodes: list[Node] = [Input(name="in", inputs=(), shape=shape, fix=draw(POSITIONS))]

    def put(self, node: Node) -> str | None:
        """Add the node if its shape works out."""
        by_name = {n.name: n for n in self.nodes}
        sources = [by_name[s].shape for s in node.inputs]
        try:
            shape = infer_shape(node, sources)
        except Exception:
            return None
        self.nodes.append(dataclasses.replace(node, shape=shape))
        return node.name

    def integers(self, shape: tuple[int, ...], fix: int) -> np.ndarray:
        low, high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        rng = np.random.default_rng(self.draw(st.integers(0, 2**32)))
        values = rng.integers(low, high + 1, shape) if self.draw(st.booleans()) else rng.integers(-2, 3, shape)
        return np.ldexp(values, -fix).astype(np.float32)

    def layer(self, source: Node, *, fix: int | None, same: bool = False) -> str | None:
        """A convolution; `same`: of the source's height and width."""
        draw, name = self.draw, f"n{len(self.nodes)}"
        weight_fix, bias_fix = draw(POSITIONS), draw(POSITIONS)
        common = {
            "name": name,
            "inputs": (source.name,),
            "weight_fix": weight_fix,
            "bias_fix": bias_fix,
            "fix": fix,
            "activation": draw(ACTIVATIONS),
        }
        size = st.just(1) if same else st.integers(1, 2)
        kernel = (
            (draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 3]))) if same else (draw(size), draw(st.integers(1, 3)))
        )
        half = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
        window = {
            "kernel": kernel,
            "stride": (draw(size), draw(size)),
            "padding": half if same else draw(_pads()),
            "dilation": (draw(size), draw(size)),
        }
        channels, bias_of = source.shape[-1], lambda n: self.integers((n,), bias_fix)
        if draw(st.booleans()):
            weight = self.integers((*kernel, channels), weight_fix)
            node: Node = Depthwise(shape=(1, 1, channels), weight=weight, bias=bias_of(channels), **common, **window)
        else:
            out = draw(st.integers(1, 3))
            weight = self.integers((out, *kernel, channels), weight_fix)
            node = Conv(shape=(1, 1, out), weight=weight, bias=bias_of(out), **common, **window)
        return self.put(node)

    def pool(self, source: Node) -> str | None:
        draw = self.draw
        kind = draw(st.sampled_from(["max", "avg"]))
        kernel = source.shape[:2] if draw(st.booleans()) else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        factor = draw(st.sampled_from([1.0, average_factor(kernel)])) if kind == "avg" else 1.0
        node = Pool(
            name=f"n{len(self.nodes)}",
            inputs=(source.name,),
            shape=source.shape,
            kind=kind,
            kernel=kernel,
            stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            padding=draw(_pads(1)),
            ceil_mode=draw(st.booleans()),
            factor=factor,
            fix=draw(POSITIONS),
        )
        return self.put(node)

    def step(self) -> None:
        draw = self.draw
        images = [n for n in self.nodes if len(n.shape) == 3 and n.fix is not None]
        source = draw(st.sampled_from(images))
        match draw(st.sampled_from(["layer", "layer", "pool", "add", "concat", "activation"])):
            case "layer":
                self.layer(source, fix=draw(POSITIONS))
            case "pool":
                self.pool(source)
            case "add":
                other = draw(st.sampled_from([n for n in images if n.shape == source.shape]))
                name, kind = f"n{len(self.nodes)}", draw(ACTIVATIONS)
                both = (source.name, other.name)
                self.put(Add(name=name, inputs=both, shape=source.shape, activation=kind, fix=draw(POSITIONS)))
            case "activation":
                kind, fix = draw(st.sampled_from(["relu", "relu6", "leaky_relu"])), draw(POSITIONS)
                name = f"n{len(self.nodes)}"
                self.put(Activation(name=name, inputs=(source.name,), shape=source.shape, activation=kind, fix=fix))
            case "concat":
                self.concat(source, images)

    def concat(self, source: Node, images: list[Node]) -> None:
        """Of a rounded tensor and, where one fits, a layer that only the concat reads and rounds."""
        draw, axis = self.draw, self.draw(st.sampled_from([0, 1, 2, 2]))
        fitting = [n for n in images if all(n.shape[i] == source.shape[i] for i in range(3) if i != axis)]
        parts = [source.name, *draw(st.lists(st.sampled_from([n.name for n in fitting]), max_size=2))]
        if axis == 2:
            unrounded = self.layer(source, fix=None, same=True)
            assert unrounded is not None
            parts.append(unrounded)
        self.put(Concat(name=f"n{len(self.nodes)}", inputs=tuple(parts), shape=source.shape, axis=axis, fix=draw(POSITIONS)))

    def graph(self) -> Graph:
        """All tensors that nobody reads, flattened, joined and multiplied."""
        draw = self.draw
        read = {s for n in self.nodes for s in n.inputs}
        flat = []
        for node in [n for n in self.nodes if n.name not in read]:
            flat.append(f"flat_{node.name}")
            self.nodes.append(Reshape(name=flat[-1], inputs=(node.name,), shape=(int(np.prod(node.shape)),)))
        total = sum(self.nodes[-i - 1].shape[0] for i in range(len(flat)))
        self.nodes.append(Concat(name="all", inputs=tuple(flat), shape=(total,), axis=0, fix=draw(POSITIONS)))
        weight_fix = draw(POSITIONS)
        weight, bias = self.integers((3, total), weight_fix), self.integers((3,), 2)
        self.nodes.append(
            Linear(
                name="fc",
                inputs=("all",),
                shape=(3,),
                weight=weight,
                bias=bias,
                weight_fix=weight_fix,
                bias_fix=2,
                fix=draw(POSITIONS),
                activation=draw(ACTIVATIONS),
            )
        )
        return Graph("Random", tuple(self.nodes), self.bits)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, np.ndarray]:
    builder = _Builder(draw, draw(st.sampled_from([8, 8, 8, 5])))
    for _ in range(draw(st.integers(1, 5))):
        builder.step()
    graph = builder.graph()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    half = 2 ** (graph.bits - 1)
    return graph, rng.integers(-half, half, (2, *graph.input.shape)).astype(np.int8)


@settings(max_examples=100, deadline=None)
@given(case=networks())
def test_random_networks_equal_the_slow_reference(case: tuple[Graph, np.ndarray]) -> None:
    graph, images = case
    ours, names = execute_all(graph, images), fix_names(graph)
    for i, image in enumerate(images):
        for node, expected in reference_values(graph, image).items():
            np.testing.assert_array_equal(ours[names[node].output][i], expected, err_msg=node)
    logits = np.ldexp(ours[names["fc"].output].astype(np.float32), -graph.output.fix)
    np.testing.assert_array_equal(execute(graph, images, batch=1), logits)


@settings(max_examples=40, deadline=None)
@given(case=networks())
def test_the_form_used_on_other_devices_computes_the_same(case: tuple[Graph, np.ndarray]) -> None:
    graph, images = case
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
