"""A schedule computes, loads and saves what the DPU does, waits for what it must, and refuses what the DPU cannot hold."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.graph._graph import Activation, Conv, Depthwise, Graph, Input, Linear, Pool, without_weights
from edgesearch.board_eval.isa import Engine
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.lowering._widths import with_widths
from edgesearch.board_eval.targets import DPUS, load_profile
from edgesearch.board_eval.timing._instructions import Kind
from edgesearch.board_eval.timing._schedule import Program, check_fits, schedule
from edgesearch.board_eval.timing._timing import instruction_costs, run
from edgesearch.errors import GraphError
from edgesearch.plugins import import_torchvision

from .._networks import Net, residual_net

B4096 = DPUS["B4096"]


# -- laws of single layers


@given(st.integers(1, 40), st.integers(1, 40), st.integers(33, 80), st.integers(1, 80), st.sampled_from([1, 3, 5]))
@settings(deadline=None, max_examples=40)
def test_cycles_of_a_convolution(height: int, width: int, inputs: int, outputs: int, kernel: int) -> None:
    net = Net(height, width, inputs)
    net.conv("image", outputs, kernel)
    program = schedule(net.graph(), B4096)
    expected = math.ceil(height / 8) * width * kernel**2 * math.ceil(inputs / 16) * math.ceil(outputs / 16)
    assert program.cycles(Kind.CONV) == expected
    assert program.weight_loads == outputs + 1
    assert program.weight_bytes == kernel**2 * inputs * outputs + outputs


@pytest.mark.parametrize("channels", [24, 32])
def test_a_linear_layer_that_is_too_long_for_a_pixel_is_a_convolution_of_the_image(channels: int) -> None:
    net = Net(16, 16, 3)
    net.linear(net.flatten(net.conv("image", channels, name="first")), 1024)
    program = schedule(net.graph(), B4096)
    assert program.cycles(Kind.CONV) - 2 * 16 * 3 * math.ceil(channels / 16) == 16 * 16 * 2 * 1024 // 16
    assert program.layers[-1].in_shape == (16, 16, channels)


def test_a_first_kernel_with_holes_is_not_folded_into_its_channels() -> None:
    node = Conv(name="holes", inputs=("image",), shape=(1, 96, 32), kernel=(1, 3), dilation=(1, 2))
    assert schedule(single(node, (1, 100, 10)), B4096).cycles(Kind.CONV) == 96 * 3 * 2
    near = Conv(name="near", inputs=("image",), shape=(1, 98, 32), kernel=(1, 3))
    assert schedule(single(near, (1, 100, 10)), B4096).cycles(Kind.CONV) == 98 * 2 * 2


@given(st.sampled_from(sorted(DPUS)), st.integers(8, 40), st.tuples(*[st.integers(1, 70)] * 3), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_any_network_on_any_target_moves_its_weights_once_and_waits_only_for_the_past(
    target: str, size: int, widths: tuple[int, int, int], channels: int
) -> None:
    graph = residual_net(size, widths, channels)
    program = schedule(graph, DPUS[target])
    assert program.weight_bytes == graph.parameters
    assert program.saved_bytes >= 10
    instructions = list(program.instructions)
    assert all(0 <= other < at for at, instruction in enumerate(instructions) for other in instruction.after)
    assert all(instruction.repeat >= 1 for instruction in instructions)


def test_weights_that_do_not_fit_together_make_a_spilled_input_be_read_again() -> None:
    net = Net(56, 56, 256)
    net.conv(net.conv("image", 256, 1), 512, 3)  # 144 words a group: 14 of 32 groups at a time, three blocks
    program = schedule(net.graph(), B4096)
    rows = 56 * 56 * 256
    assert program.spilled_bytes == 3 * rows
    assert not program.fits_on_chip


@given(st.integers(8, 40), st.tuples(*[st.integers(16, 600)] * 3))
@settings(deadline=None, max_examples=15)
def test_weights_on_chip_never_exceed_their_banks(size: int, widths: tuple[int, int, int]) -> None:
    program = schedule(residual_net(size, widths), B4096)
    costs = instruction_costs(program, load_profile("zcu104").constants)
    ends, _ = run(program, costs)
    tape = program.tape
    in_use_until: dict[tuple[int, int], float] = {}
    for kind, layer, group, end in zip(tape.kind, tape.layer, tape.group, ends, strict=True):
        if kind == Kind.CONV:
            in_use_until[layer, group] = end
    loaded: list[tuple[int, float]] = []
    for at, (kind, layer, group, words) in enumerate(zip(tape.kind, tape.layer, tape.group, tape.words, strict=True)):
        if kind == Kind.LOAD_WEIGHTS:
            loaded.append((words, in_use_until[layer, group]))
            start = ends[at] - costs[at]
            assert sum(words for words, until in loaded if until > start + 1e-6) <= B4096.bank_words


def _waits(program: Program, layer: str, kind: Kind) -> list[tuple[str, str]]:
    """(layer, kind) of everything that the first such instruction of a layer waits for."""
    instructions = list(program.instructions)
    first = next(i for i in instructions if i.layer == layer and i.kind is kind)
    return [(instructions[at].layer, instructions[at].kind.name) for at in first.after]


def _spilling(*, addition: bool) -> Program:
    net = Net(112, 112, 16)
    x = net.conv("image", 96, 1, name="wide")  # 14 x 112 x 6 words: no bank holds them
    y = net.depthwise(net.conv(x, 32, 3, 4, name="up"), 3)
    z = net.conv(y, 32, 1, name="down")
    net.conv(net.add(z, y) if addition else z, 16, 1, name="end")
    return schedule(net.graph(), B4096)


def test_without_prefetch_parameters_wait_for_the_end_of_the_layer_before() -> None:
    program = _spilling(addition=True)
    assert not program.prefetch
    assert _waits(program, "down", Kind.LOAD_BIAS) == [("up", "ALU")]
    assert _waits(program, "end", Kind.LOAD_BIAS) == [("down", "ELEW")]
    assert _waits(program, "up", Kind.LOAD_BIAS)[0][1] == "SAVE"
    chain = _spilling(addition=False)  # measured to be faster: only the last CONV is waited for
    assert _waits(chain, "down", Kind.LOAD_BIAS) == [("up", "CONV")]


def test_parameters_of_a_fused_depthwise_come_behind_the_weights_of_its_convolution() -> None:
    kinds = [i.kind for i in _spilling(addition=True).instructions if i.layer == "up"]
    assert kinds.count(Kind.LOAD_BIAS) == 3
    assert kinds.index(Kind.LOAD_BIAS) < kinds.index(Kind.LOAD_WEIGHTS)
    last = len(kinds) - 1 - kinds[::-1].index(Kind.LOAD_BIAS)
    assert last > kinds.index(Kind.CONV)
    assert last < kinds.index(Kind.ALU)


def _on_chip() -> Graph:
    """Convolutions that are slow to compute, then one whose weights are slow to load."""
    net, x = Net(32, 32, 3), "image"
    for number in range(12):
        x = net.conv(x, 64, 3, name=f"conv{number}")
    net.conv(net.pool(x, "avg", 8, 8), 256, 1, name="wide")
    return net.graph()


def test_on_the_chip_a_convolution_waits_for_the_rows_that_it_reads() -> None:
    program = schedule(_on_chip(), B4096)
    assert program.prefetch
    instructions = list(program.instructions)
    convs = [i for i in instructions if i.layer == "conv2" and i.kind is Kind.CONV]
    for stripe, read in ((0, 1), (1, 2), (2, 3), (3, 3)):  # eight rows a stripe, and one more is read
        first = next(conv for conv in convs if conv.stripe == stripe)
        assert [instructions[at].stripe for at in first.after if instructions[at].layer == "conv1"] == [read]


def test_on_the_chip_a_stride_above_its_kernel_waits_for_rows_as_far_down_as_it_reads() -> None:
    net = Net(64, 32, 16)
    x = net.conv("image", 16, 3, name="read")
    net.add(net.conv(x, 32, 3, 2), net.conv(x, 32, 1, 2))
    program = schedule(net.graph(), B4096)
    assert program.prefetch
    instructions = list(program.instructions)
    thinned = next(layer.name for layer in program.layers if layer.kind == "downsample")
    stripes = [i for i in instructions if i.layer == thinned and i.engine is Engine.MISC]
    reads = [[instructions[at].stripe for at in i.after if instructions[at].layer == "read"] for i in stripes]
    assert [max(read) for read in reads] == list(range(8))  # four rows each, of every second of eight


def test_queues_limit_how_far_weights_are_loaded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def time(depth: int) -> tuple[float, float]:
        """When the first LOAD of the widest layer's weights ends, and when everything does, in cycles."""
        monkeypatch.setattr("edgesearch.board_eval.timing._emission.QUEUE_DEPTH", depth)
        program = schedule(_on_chip(), B4096)
        ends, _ = run(program, instruction_costs(program, load_profile("zcu104").constants))
        loads = [
            end for i, end in zip(program.instructions, ends, strict=True) if i.layer == "wide" and i.kind is Kind.LOAD_BIAS
        ]
        return loads[0], max(ends)

    times = [time(depth) for depth in (1, 8, 10**6)]
    assert times == sorted(times, reverse=True)
    assert times[0][0] > times[1][0] > times[2][0]
    assert times[0][1] > times[2][1]


def test_the_program_prints() -> None:
    text = str(schedule(residual_net(16, (16, 16, 16)), B4096))
    assert "CONV" in text
    assert "LOAD_WEIGHTS x16" in text
    assert {i.engine for i in schedule(residual_net(16, (16, 16, 16)), B4096).instructions} == set(Engine)


# -- what the DPU cannot hold


def single(node: Conv | Depthwise | Pool | Linear, shape: tuple[int, ...]) -> Graph:
    return Graph("one", (Input(name="image", inputs=(), shape=shape), node))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            single(Conv(name="big", inputs=("image",), shape=(16, 16, 8), kernel=(17, 17)), (32, 32, 3)),
            r"'big': kernel \(17, 17\)",
        ),
        (
            single(Conv(name="far", inputs=("image",), shape=(4, 4, 8), kernel=(1, 1), stride=(9, 9)), (32, 32, 3)),
            r"'far': stride \(9, 9\)",
        ),
        (
            single(Depthwise(name="wide", inputs=("image",), shape=(44, 44, 3), kernel=(257, 257)), (300, 300, 3)),
            r"'wide': kernel \(257, 257\)",
        ),
        (
            single(Conv(name="deep", inputs=("image",), shape=(6, 6, 8), kernel=(3, 3)), (8, 8, 4096)),
            "'deep': the weights of one output channel, 3 x 3 x 4096, take 2304 words",
        ),
        (
            single(Conv(name="many", inputs=("image",), shape=(4, 4, 5000), kernel=(1, 1)), (4, 4, 16)),
            "'many': 5000 output channels; B4096 takes at most 4096",
        ),
        (
            single(Conv(name="holes", inputs=("image",), shape=(28, 28, 8), kernel=(3, 3), dilation=(2, 2)), (32, 32, 3000)),
            "'holes': dilation",
        ),
        (single(Linear(name="long", inputs=("image",), shape=(10,)), (40000,)), "'long': the weights of one output channel"),
        (
            single(
                Pool(name="huge", inputs=("image",), shape=(1, 1, 3), kind="avg", kernel=(300, 300), stride=(1, 1)),
                (300, 300, 3),
            ),
            "'huge': kernel",
        ),
    ],
)
def test_what_does_not_fit_is_named(graph: Graph, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        check_fits(graph, B4096)
    with pytest.raises(GraphError, match=message):
        schedule(graph, B4096)


def test_a_layer_that_nobody_reads_is_named() -> None:
    net = Net(8, 8, 3)
    net.conv("image", 16, name="lost")
    net.conv("image", 16, name="found")
    with pytest.raises(GraphError, match="'net': nobody reads 'lost', and the output is 'found'"):
        schedule(net.graph(), B4096)
    with pytest.raises(GraphError, match="nobody reads 'lost'"):
        compile_graph(net.graph(), B4096)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28, 3)])
def test_a_value_that_is_neither_image_nor_vector_is_named(shape: tuple[int, ...]) -> None:
    image = Input(name="image", inputs=(), shape=shape)
    graph = Graph("net", (image, Activation(name="relu", inputs=("image",), shape=shape, activation="relu")))
    message = rf"network 'net': 'image' has shape {re.escape(str(shape))}; the DPU holds images \(height, width, channels\)"
    for work in (lambda: schedule(graph, B4096), lambda: compile_graph(graph, B4096)):
        with pytest.raises(GraphError, match=message):
            work()


def test_what_fits_depends_on_the_target() -> None:
    net = Net(7, 7, 512)
    net.linear(net.flatten("image"), 10)
    graph = net.graph()
    check_fits(graph, B4096)
    with pytest.raises(GraphError, match="B512"):
        check_fits(graph, DPUS["B512"])


# -- compiled networks


def compiled(name: str, folder: Path) -> Program:
    models = import_torchvision().models
    if name == "MobileNetV2_ptq":
        model = models.mobilenet_v2(weights=None)
        model.classifier = nn.Sequential(nn.Linear(1280, 128), nn.ReLU(), nn.Linear(128, 10))
    elif name == "SqueezeNet_ptq":
        model = models.squeezenet1_0(weights=None)
        model.classifier[1] = nn.Conv2d(512, 10, 1)
    else:
        model = models.resnet50(weights=None)
        model.fc = nn.Sequential(nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))
    graph = without_weights(lower(model, (3, 224, 224), name=name))
    if name == "ResNet_os095":
        graph = with_widths(graph, json.loads((folder / "thesis_pruned_channels.json").read_text())["ResNet-50 one-step 95 %"])
    return schedule(graph, B4096)


@pytest.mark.parametrize("name", ["ResNet_os095", "MobileNetV2_ptq", "SqueezeNet_ptq"])
def test_counts_of_the_compilers_own_output(name: str, reference_data: Path) -> None:
    torch.manual_seed(0)
    folder = reference_data / "dpu"
    with (folder / "xmodel_summary.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["xmodel"] == name)
    program = compiled(name, folder)
    exact = {
        "weight_LOADs": program.weight_loads,
        "weight_bytes": program.weight_bytes,
        "img_LOADs": program.count(Kind.LOAD_IMAGE),
        "img_bytes": program.image_bytes,
        "fm_LOADs": program.count(Kind.LOAD_ROWS),
        "fm_bytes": program.spilled_bytes,
        "n_SAVE": program.count(Kind.SAVE),
        "save_bytes": program.saved_bytes,
        "alu_cycles": program.cycles(Kind.ALU),
        "n_ELEW": program.count(Kind.ELEW),
        "elew_cycles": program.cycles(Kind.ELEW),
    }
    assert exact == {key: int(row[key]) for key in exact}
    assert program.prefetch == (row["if_prefetch"] == "True")
    assert program.cycles(Kind.CONV) == pytest.approx(int(row["conv_cycles"]), rel=0.01)


def test_a_batch_norm_of_its_own_works_from_memory_to_memory_one_stripe_after_the_other() -> None:
    net = Net(32, 32, 16)
    x = net.conv("image", 16)
    scale = net.put(Depthwise(name="bn", inputs=(x,), shape=net.shapes[x], kernel=(1, 1), scale=True))
    net.conv(scale, 16)
    graph = net.graph()
    program = schedule(graph, B4096)
    assert not program.allocation.on_chip(x)
    assert not program.allocation.on_chip("bn")
    own = [(at, one) for at, one in enumerate(program.instructions) if one.layer == "bn"]
    saves = [at for at, one in own if one.kind is Kind.SAVE]
    loads = [one for _, one in own if one.kind is Kind.LOAD_ROWS]
    assert len(loads) == len(saves) == 8
    assert all(save in load.after for save, load in zip(saves, loads[1:], strict=False))
    plain = graph.map(lambda node: dataclasses.replace(node, scale=False) if isinstance(node, Depthwise) else node)
    assert schedule(plain, B4096).fits_on_chip
