"""Convolutions in groups, and parts of channels: each CONV reads and multiplies the words alone that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval.compiler import compile_graph, write_file
from edgesearch.board_eval.graph import Conv, Graph
from edgesearch.board_eval.isa import Conv as ConvInstruction
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.targets import DPUS, load_profile
from edgesearch.board_eval.timing import time_graph
from edgesearch.board_eval.xmodel import read_compiled_graph, read_xmodel, write_xmodel

from ._running import assert_right, quantized, same_network

SIZES = sorted(DPUS)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Graph, int]:
    """A convolution of one pixel, one in groups, and one behind it; and the groups."""
    groups, read, made = (draw(st.integers(1, most)) for most in (12, 9, 9))
    kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))
    layer = nn.Conv2d(groups * read, groups * made, kernel, stride, kernel // 2, groups=groups)
    layers = [nn.Conv2d(3, groups * read, 1), layer, nn.ReLU(), nn.Conv2d(groups * made, 5, 1)]
    behind = draw(st.sampled_from([None, nn.MaxPool2d(2), nn.Conv2d(5, 5, 3, groups=5)]))
    height, width = (draw(st.integers(9, 24)) for _ in range(2))
    return lower(nn.Sequential(*layers, *([] if behind is None else [behind])), (3, height, width)), groups


@settings(deadline=None, max_examples=60)
@given(grouped(), st.sampled_from(SIZES), st.integers(0, 9))
def test_their_code_gives_their_integers(network: tuple[Graph, int], size: str, seed: int) -> None:
    graph, groups = network
    assume(groups > 1)
    assert_right(quantized(graph, seed), size, seed=seed)


class Parts(nn.Module):
    """A slice of channels and a shuffle, side by side."""

    def __init__(self, channels: int, taken: slice) -> None:
        super().__init__()
        self.stem, self.taken, self.shuffle = nn.Conv2d(3, channels, 3, padding=1), taken, nn.ChannelShuffle(2)
        self.head = nn.Conv2d(channels + len(range(channels)[taken]), 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([torch.relu(x[:, self.taken]), self.shuffle(x)], 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 70), st.sampled_from(SIZES), st.data())
def test_the_code_of_parts_gives_their_integers(half: int, size: str, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.lists(st.integers(0, 2 * half), min_size=2, max_size=2, unique=True)))
    step = data.draw(st.integers(1, 3))
    graph = lower(Parts(2 * half, slice(start, stop, step)), (3, 7, 9))
    assert_right(quantized(graph), size)


@pytest.mark.parametrize(("taken", "words"), [(slice(32, 64), [1, 1]), (slice(0, 64, 2), [2, 2])])  # the second could be groups
def test_files_keep_the_picks(taken: slice, words: list[int], tmp_path: Path) -> None:
    graph = quantized(lower(Parts(64, taken), (3, 7, 9)))
    picks = {node.picks for node in graph if isinstance(node, Conv)}
    compiled = assert_right(graph)
    layer = next(at for at, plan in enumerate(compiled.plan.layers) if plan.layer.picks == tuple(range(64))[taken])
    steps = zip(compiled.program, compiled.layer_of, strict=True)
    assert [one.channel_group for one, at in steps if isinstance(one, ConvInstruction) and at == layer] == words
    write_xmodel(graph, tmp_path / "int.xmodel")
    write_file(compiled, tmp_path / "dpu.xmodel")
    for again in (read_xmodel(tmp_path / "int.xmodel"), read_compiled_graph(tmp_path / "dpu.xmodel")):
        assert {node.picks for node in again if isinstance(node, Conv)} == picks
        assert same_network(graph, again)


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "words"),
    [
        (128, 128, 32, [1] * 8),  # blocks of 4 x 4, four of them to a word
        (64, 128, 64, [1] * 8),  # two channels of each
        (96, 96, 2, [3] * 6),
        (48, 48, 2, [2, 3, 2]),  # 24 channels begin in the middle of a word, and a group of outputs may need both parts
        (64, 32, 1, [4, 4]),
    ],
)
def test_a_convolution_reads_the_words_of_its_groups(inputs: int, outputs: int, groups: int, words: list[int]) -> None:
    layers = [nn.Conv2d(3, inputs, 1), nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups), nn.Conv2d(outputs, 5, 1)]
    compiled = assert_right(quantized(lower(nn.Sequential(*layers), (3, 8, 8))))
    read = [one.channel_group for one in compiled.program if isinstance(one, ConvInstruction)]
    first = -(-inputs // 16)
    assert read[first : first + len(words)] == words
    assert ("convolution of a part of the input's channels" in compiled.unseen) == (words != [-(-inputs // 16)] * len(words))


def residual(groups: int) -> Graph:
    """Bottlenecks as those of ResNeXt, three of them."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(64, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1, groups=groups), nn.ReLU()]
        layers += [nn.Conv2d(128, 64, 1), nn.ReLU()]
    return lower(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), (3, 28, 28))


def test_groups_save_time_as_the_code_does() -> None:
    profile = load_profile("zcu104")
    times = {}
    for groups in (1, 8, 32):
        graph = quantized(residual(groups))
        foretold = time_graph(graph, profile).dpu_s
        times[groups] = compile_graph(graph, DPUS["B4096"]).time(profile).dpu_s
        assert foretold == pytest.approx(times[groups], rel=0.1)
    assert times[32] == pytest.approx(times[8], rel=1e-3)  # blocks of less than a word take as long as one
    assert times[8] < 0.6 * times[1]


def test_files_keep_the_groups(tmp_path: Path) -> None:
    graph = quantized(residual(8))
    write_xmodel(graph, tmp_path / "int.xmodel")
    compiled = compile_graph(graph, DPUS["B4096"])
    write_file(compiled, tmp_path / "dpu.xmodel")
    for again in (read_xmodel(tmp_path / "int.xmodel"), read_compiled_graph(tmp_path / "dpu.xmodel")):
        found = [node for node in again if isinstance(node, Conv)]
        assert [node.groups for node in found if node.kernel == (3, 3)] == [1, 8, 8, 8]
        assert again.macs == graph.macs
        assert same_network(graph, again)
