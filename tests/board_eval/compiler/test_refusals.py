from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from edgesearch.board_eval.compiler import Options, compile_graph
from edgesearch.board_eval.graph import Conv, Graph, Input
from edgesearch.board_eval.isa import decode
from edgesearch.board_eval.targets import DPUS, Dpu
from edgesearch.errors import GraphError

from .._networks import Net
from ._quantized import Quantized
from ._running import EVERYTHING, assert_right, compiled_or_refused, random_network


def refusal(graph: Graph, options: Options | None = None, size: str = "B4096") -> str:
    with pytest.raises(GraphError) as caught:
        compile_graph(graph, DPUS[size], options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_alone_is_refused() -> None:
    net = Quantized(4, 4, 3)
    assert "network 'quantized' has no layers" in refusal(net.graph())
    net.reshape("image")
    assert "network 'quantized' has no layers" in refusal(net.graph())


def test_positions_too_far_apart_are_refused_by_layer_and_limit() -> None:
    for offset in (-60, -35, 35, 60):
        net = Quantized(4, 4, 3)
        net.add(net.conv("image", 4, fix=3), net.conv("image", 4, fix=4), fix=3 + offset)
        assert "layer 'add3" in refusal(net.graph())
        for kind in ("relu", "leaky_relu"):
            net = Quantized(4, 4, 3)
            net.activation("image", kind, fix=5 + offset)
            assert "layer 'act1" in refusal(net.graph(), EVERYTHING)
        net = Quantized(4, 4, 3)
        net.pool("image", "max", (2, 2), fix=5 + abs(offset))
        assert "layer 'pool1': its output's fix position asks for a shift" in refusal(net.graph())
        net = Quantized(4, 4, 3)
        net.concat("image", "image", fix=5 + offset)
        assert "layer 'cat1/part0'" in refusal(net.graph())


@pytest.mark.parametrize("where", ["the image", "its feature map", "its weights"])
def test_addresses_beyond_29_bits_are_refused(where: str) -> None:
    if where == "the image":
        net = Net(20_000, 10_000, 3)
        net.pool("image", "max", 2, 2)
        name = "image"
    elif where == "its feature map":
        net = Net(4000, 4000, 3)
        name = net.conv("image", 64)
        net.conv(name, 3)
    else:
        net = Net(1, 1, 4096)
        x, name = "image", "conv6"
        for _ in range(6):  # 96 MiB each
            conv = Conv(name=f"conv{len(net.nodes)}", inputs=(x,), shape=(1, 1, 4096), kernel=(2, 3), padding=(1, 1, 1, 0))
            x = net.put(conv)
    message = refusal(net.graph())
    assert f"layer {name!r}: {where} would end at byte" in message
    assert str(1 << 29) in message


def test_leaky_relu_is_refused_where_the_dpu_has_none() -> None:
    net = Quantized(4, 4, 3)
    net.conv("image", 4, activation="leaky_relu")
    assert "layer 'conv1' has a leaky ReLU" in refusal(net.graph())
    plain = DPUS["B4096"]
    other = Dpu.model_validate({**plain.model_dump(), "fingerprint": plain.fingerprint & ~(1 << 28)})
    with pytest.raises(GraphError, match="layer 'conv1': leaky ReLU behind a convolution"):
        compile_graph(net.graph(), other, EVERYTHING)


def test_limits_of_the_dpu_are_told_by_layer() -> None:
    net = Net(40, 40, 3)
    net.conv("image", 16, 17)
    assert "layer 'conv1': kernel (17, 17)" in refusal(net.graph())
    net = Net(4, 4, 3)
    net.conv("image", 5000, 1)
    assert "layer 'conv1': 5000 output channels" in refusal(net.graph())


def test_nothing_but_clear_sentences_for_networks_that_are_damaged() -> None:
    """Positions and strides changed at random: compiled, or refused by name."""
    chance = random.Random(0)
    for seed in range(60):
        graph = random_network(seed, largest=16)
        node = chance.choice([node for node in graph if not isinstance(node, Input) and node.fix is not None])
        change = chance.choice([-30, -9, 9, 30, 200])
        fields = {"fix": (node.fix or 0) + change}
        if isinstance(node, Conv) and chance.random() < 0.5:
            fields = {"weight_fix": (node.weight_fix or 0) + change}
        compiled = compiled_or_refused(graph.replace({node.name: dataclasses.replace(node, **fields)}), "B4096")
        if isinstance(compiled, str):
            assert "layer '" in compiled
        else:
            assert decode(compiled.code) == compiled.program


def test_a_maximum_of_nothing_but_padding() -> None:
    """It is -128 whatever the fix position; rounded down, it would be another number."""
    for fix in (4, 5, 6):
        net = Quantized(3, 3, 4)
        net.pool("image", "max", (1, 1), padding=(0, 0, 1, 0), fix=fix)
        if fix < 5:
            assert "layer 'pool1': its first window lies in the padding" in refusal(net.graph())
        else:
            assert_right(net.graph())


def _parts() -> Quantized:
    net = Quantized(4, 4, 3)
    first = net.conv("image", 4, fix=3)
    net.concat(net.conv(first, 4, fix=4), net.conv(first, 4, fix=5), fix=3)
    return net


def _clamped() -> Quantized:
    net = Quantized(4, 4, 3)
    net.activation(net.conv("image", 4, fix=3), "relu6", fix=3)
    return net


def _thinned() -> Quantized:
    net = Quantized(16, 16, 3)
    first = net.conv(net.conv("image", 16, fix=2), 16, fix=2)
    wide = net.conv(net.conv(first, 16, fix=0), 32, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), fix=-2)
    net.add(wide, net.conv(first, 32, stride=(2, 2), fix=-2), fix=-2)
    return net


@pytest.mark.parametrize(("make", "name"), [(_parts, "cat4/part0"), (_clamped, "act2/relu"), (_thinned, "conv2/every2x2")])
def test_a_layer_that_has_the_name_of_a_step_of_the_compiler_is_refused(make: Callable[[], Quantized], name: str) -> None:
    net = make()
    compile_graph(net.graph(), DPUS["B4096"])
    net.nodes = [
        dataclasses.replace(
            node,
            name=name if node.name == "conv1" else node.name,
            inputs=tuple(name if source == "conv1" else source for source in node.inputs),
        )
        for node in net.nodes
    ]
    assert f"the compiler calls a step of its own {name!r}" in refusal(net.graph())
