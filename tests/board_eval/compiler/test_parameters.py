from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler import compile_graph, write_file
from edgesearch.board_eval.compiler._parameters import Parameters, Ring, arithmetic
from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Conv
from edgesearch.board_eval.targets import DEFAULT_TARGET
from edgesearch.board_eval.xmodel import read_compiled_graph
from edgesearch.errors import CompileError, QuantizationError

from ._quantized import Quantized
from ._running import random_images, same_network

ACTIVATIONS = st.sampled_from(["none", "relu", "leaky_relu"])
LARGEST = st.sampled_from([1, 20, 127])
POSITIONS = st.integers(-12, 24)


@given(POSITIONS, POSITIONS, POSITIONS, POSITIONS, ACTIVATIONS, LARGEST, st.integers(0, 99))
@settings(deadline=None, max_examples=150)
def test_shifts_weights_and_biases_give_the_integers_of_the_layer(
    fix_in: int, fix_weight: int, fix_bias: int, fix: int, activation: str, largest: int, seed: int
) -> None:
    """v = (2 * sum + bias * 2**shift_bias) / 2**(shift_cut + 1), the activation, half up."""
    net = Quantized(3, 3, 4, fix=fix_in, seed=seed)
    name = net.conv("image", 5, fix=fix, weight_fix=fix_weight, bias_fix=fix_bias, activation=activation)
    net.change(name, weight=net.integers((5, 1, 1, 4), fix_weight, largest), bias=net.integers((5,), fix_bias, largest))
    graph = net.graph()
    node = graph.output
    assert isinstance(node, Conv)
    images = random_images(graph, 1, seed)
    try:
        expected = np.ldexp(execute(graph, images), fix)[0]
        how, weight, bias = arithmetic(node, fix_in, fix)
    except (CompileError, QuantizationError):
        assume(False)
    assert weight is not None
    assert bias is not None
    assert weight.dtype == bias.dtype == np.int8
    assert 0 <= how.shift_cut <= 63
    assert 0 <= how.shift_bias <= 20
    sums = images[0].astype(np.int64) @ weight[:, 0, 0].astype(np.int64).T
    v = (2 * sums + bias.astype(np.int64) * 2**how.shift_bias).astype(np.float64)
    if activation == "leaky_relu":
        v = np.where(v < 0, v * 26 / 256, v)
    elif activation == "relu":
        v = np.maximum(v, 0)
    values = np.clip(np.floor(np.ldexp(v, -how.shift_cut - 1) + 0.5), -128, 127)
    assert np.array_equal(values, expected)


def test_a_layer_of_shapes_has_no_integers() -> None:
    net = Quantized(3, 3, 4)
    net.change(net.conv("image", 5, activation="relu"), weight=None, bias=None)
    node = net.graph().output
    assert isinstance(node, Conv)
    how, weight, bias = arithmetic(node, 5, 3)
    assert (weight, bias) == (None, None)
    assert how.act_type == 1


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ({"fix_in": 30, "weight_fix": 40, "fix": 0}, r"fix positions \(input 30, weight 40, .*0\.\.63"),
        ({"fix_in": 5, "weight_fix": 7, "bias_fix": -20}, r"bias -20.*ask for shifts of 9 and 33.*0\.\.20"),
        ({"fix_in": 0, "weight_fix": 0, "fix": 6}, "layer 'conv1': its output has 6 bits more behind the point than its sums"),
        ({"bias_fix": 40, "activation": "leaky_relu"}, "layer 'conv1': its bias has 27 bits more behind the point.*leaky"),
    ],
)
def test_positions_too_far_apart_are_refused(positions: dict[str, int], sentence: str) -> None:
    fix_in = positions.pop("fix_in", 5)
    net = Quantized(3, 3, 4, fix=fix_in)
    options = {"fix": 3, "weight_fix": 7, "bias_fix": 4, **positions}
    net.conv("image", 5, **options)
    node = net.graph().output
    assert isinstance(node, Conv)
    with pytest.raises(CompileError, match=sentence):
        arithmetic(node, fix_in, options["fix"])


# -- the block


def test_constants_lie_page_by_page_and_only_once() -> None:
    block = Parameters()
    first = np.arange(10, dtype=np.int8)
    second = np.arange(5000, dtype=np.int64).astype(np.int8).reshape(50, 100)
    assert block.add("a", "bias", 10, first) == 0
    assert block.add("a", "weights", 5000, second) == 4096
    assert block.add("a", "bias", 10, first) == 0
    assert block.add("b", "bias", 3, None) == 3 * 4096
    content = np.frombuffer(block.content(), np.int8)
    assert content.size == block.size == 4 * 4096
    assert np.array_equal(content[:10], first)
    assert np.array_equal(content[4096:9096], second.ravel())
    assert not content[10:4096].any()
    assert not content[9096:].any()
    assert block.addresses == {("a", "bias"): 0, ("a", "weights"): 4096, ("b", "bias"): 3 * 4096}


def test_constants_beyond_the_reach_of_an_address_are_refused() -> None:
    block = Parameters()
    block.add("a", "weights", (1 << 29) - 4096, None)
    block.add("b", "bias", 4096, None)
    with pytest.raises(CompileError, match=f"layer 'c': its bias would end at byte .* instructions reach {1 << 29}"):
        block.add("c", "bias", 1, None)


@given(st.lists(st.integers(1, 30), max_size=30))
def test_a_ring_gives_one_piece_behind_the_other(pieces: list[int]) -> None:
    ring, total = Ring(30), 0
    for words in pieces:
        assert ring.take(words) == total % 30
        total += words


@pytest.mark.parametrize(("weight_fix", "bias_fix"), [(1, 1), (1, 9), (7, -12)])
def test_a_file_tells_the_positions_of_the_integers_that_it_holds(weight_fix: int, bias_fix: int, tmp_path: Path) -> None:
    """Sums coarser than the result, a bias finer than the sums, one that no shift reaches."""
    net = Quantized(6, 6, 4, fix=4)
    name = net.conv("image", 5, (3, 3), fix=8 if weight_fix == 1 else 3, weight_fix=weight_fix, bias_fix=bias_fix)
    net.change(name, weight=net.integers((5, 3, 3, 4), weight_fix, 3), bias=net.integers((5,), bias_fix, 3))
    graph, path = net.graph(), tmp_path / "positions.xmodel"
    write_file(compile_graph(graph, DEFAULT_TARGET), path)
    assert same_network(graph, read_compiled_graph(path))
