"""Parts of channels, and channels in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.graph import Conv, Graph
from edgesearch.board_eval.lowering import channel_groups, lower
from edgesearch.errors import LoweringError
from edgesearch.objectives.pruning._groups import find_groups

SHAPE = (3, 6, 5)


class Calls(nn.Module):
    """A convolution to eight channels, and what is done with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.does = nn.Conv2d(3, 8, 1), forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, self.stem(x))


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The shuffle of ShuffleNet, as torchvision has it."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


def lowered(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Graph:
    """The graph, which computes what the network does."""
    graph = lower(model.eval(), shape)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    np.testing.assert_allclose(
        run_float(graph, images.permute(0, 2, 3, 1).numpy()).reshape(expected.shape), expected.numpy(), rtol=1e-4, atol=1e-5
    )
    return graph


def picks(graph: Graph) -> list[tuple[int, ...]]:
    return [node.picks for node in graph if isinstance(node, Conv) and node.picks is not None]


HALF, OTHER = tuple(range(4)), tuple(range(4, 8))


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (lambda m, x: x.chunk(2, 1)[0], [HALF]),
        (lambda m, x: torch.chunk(x, 3, dim=1)[-1], [(6, 7)]),
        (lambda m, x: x.split(4, 1)[1], [OTHER]),
        (lambda m, x: torch.split(x, [1, 5, 2], dim=-3)[1], [(1, 2, 3, 4, 5)]),
        (lambda m, x: x.tensor_split(3, 1)[1], [(3, 4, 5)]),
        (lambda m, x: torch.tensor_split(x, (2, 3), dim=1)[2], [(3, 4, 5, 6, 7)]),
        (lambda m, x: x.narrow(1, -3, 2), [(5, 6)]),
        (lambda m, x: x[:, 4:], [OTHER]),
        (lambda m, x: x[:, 1:-1:3, ...], [(1, 4)]),
        (lambda m, x: x[..., 2:4, :, :], [(2, 3)]),
        (lambda m, x: x[:, 2:][:, :3][:, 1:], [(3, 4)]),
        (lambda m, x: F.relu(x[:, :4]) + x[:, 4:], [HALF, OTHER]),
        (lambda m, x: F.relu(x[:, 2:])[:, :2], [(2, 3, 4, 5, 6, 7), (0, 1)]),
        (lambda m, x: x[:, :4] + x[:, :4], [HALF, HALF]),
        (lambda m, x: shuffled(x, 2), [(0, 4, 1, 5, 2, 6, 3, 7)]),
        (lambda m, x: shuffled(shuffled(x, 2), 4), []),
        (lambda m, x: shuffled(x, 4)[:, :2], [(0, 2)]),
        (lambda m, x: x.reshape(-1, 4, 2, 6, 5).permute(0, 2, 1, 3, 4).reshape(-1, 8, 6, 5), [(0, 2, 4, 6, 1, 3, 5, 7)]),
        (lambda m, x: torch.channel_shuffle(x, 4), [(0, 2, 4, 6, 1, 3, 5, 7)]),
        (lambda m, x: nn.ChannelShuffle(2)(x), [(0, 4, 1, 5, 2, 6, 3, 7)]),
        (lambda m, x: torch.cat([x, F.relu(x)], 1)[:, 9:12], [(1, 2, 3)]),
        (lambda m, x: torch.cat([F.relu(x), x], 1)[:, 8:], []),
        (lambda m, x: torch.cat([F.relu(x), x], 1)[:, 6:10], [(6, 7, 8, 9)]),
        (lambda m, x: x.split([8], 1)[0], []),
        (lambda m, x: torch.cat(x.chunk(2, 1), 1), []),
        (lambda m, x: torch.cat(x.chunk(4, 1)[1:3], 1), [(2, 3, 4, 5)]),
        (lambda m, x: x.reshape(-1, 4, 2, 6, 5).transpose(2, 1).flatten(1, 2), [(0, 2, 4, 6, 1, 3, 5, 7)]),
    ],
)  # fmt: skip
def test_channels_are_those_of_torch(does: Any, expected: list[tuple[int, ...]]) -> None:
    assert picks(lowered(Calls(does))) == expected


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_slices_and_shuffles_in_a_row(data: st.DataObject) -> None:
    steps, channels = [], 8
    for _ in range(data.draw(st.integers(1, 4))):
        if channels % 2 == 0 and data.draw(st.booleans()):
            steps.append(2)
            continue
        one = slice(*sorted(data.draw(st.lists(st.integers(0, channels), min_size=2, max_size=2, unique=True))))
        channels = one.stop - one.start
        steps.append(one)  # type: ignore[arg-type]

    def does(m: Any, x: Tensor) -> Tensor:
        for step in steps:
            x = shuffled(x, step) if isinstance(step, int) else x[:, step]
        return x

    assert len(picks(lowered(Calls(does)))) <= 1


class Unit(nn.Module):
    """A unit of ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return shuffled(torch.cat((first, F.relu(self.c(self.b(F.relu(self.a(second)))))), 1), 2)


def csp(m: Any, x: Tensor) -> Tensor:
    """A block of YOLO's, of which every part is kept."""
    parts = list(x.chunk(2, 1))
    parts += [F.relu(m.a(parts[-1]))]
    parts += [F.relu(m.b(parts[-1]))]
    return m.head(torch.cat(parts, 1))


def test_networks_of_parts() -> None:
    units = nn.Sequential(nn.Conv2d(3, 8, 1), Unit(), Unit(), nn.Conv2d(8, 5, 1))
    assert len(picks(lowered(units))) == 5  # two of each, from what lies in front of the shuffle; and the last shuffle
    layers = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 3, padding=1), "head": nn.Conv2d(16, 5, 1)}
    assert picks(lowered(Calls(csp, **layers))) == [HALF, OTHER]


def test_parts_of_the_image_and_a_batch_norm_behind_one() -> None:
    image = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    graph = lowered(Calls(lambda m, x: m.norm(x[:, 4:]), norm=norm))
    assert picks(graph) == [OTHER]
    assert graph.macs == lower(image, SHAPE).macs  # taking channels multiplies nothing
    assert picks(lower(First(), SHAPE)) == [(0,)]


class First(nn.Module):
    """Of the image one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, :1])


@pytest.mark.parametrize(
    ("does", "where", "reason"),
    [
        (lambda m, x: x.chunk(2, 0)[0], "chunk", "has chunk, split and slice, this tool those of channels of images"),
        (lambda m, x: x.narrow(2, 0, 3), "narrow", "those of channels of images"),
        (lambda m, x: x[:, :, ::2], "getitem", "those of channels of images"),
        (lambda m, x: x[:1, :2], "getitem", "those of channels of images"),
        (lambda m, x: x.mean((2, 3))[:, :4], "getitem", "those of channels of images"),
        (lambda m, x: x[:, 8:], "getitem", "a part without channels"),
        (lambda m, x: x.split([4, 3], 1)[0], "split", "torch refuses it: split_with_sizes expects"),
        (lambda m, x: x.chunk(0, 1)[0], "chunk", "torch refuses it: chunk expects `chunks` to be greater than 0"),
        (lambda m, x: x.view(-1, 2, 4, 6, 5) + 1, "add", "whose channels are two dimensions; the DPU has one"),
        (lambda m, x: x.view(-1, 2, 4, 6, 5).transpose(1, 3), "transpose", "whose channels are two dimensions"),
        (lambda m, x: x.transpose(2, 3), "transpose", "not among the operations that this tool knows"),
        (lambda m, x: F.relu(torch.cat(x.chunk(2, 1), 2)), "cat", "of parts along another dimension than that of channels"),
        (lambda m, x: F.relu(x.view(3, 2, 4, 6, 5).transpose(1, 2).reshape(3, 8, 6, 5)), "view", "other than to (batch"),
        (lambda m, x: (torch.relu_(x[:, 4:]), x)[1], "Calls", "write in-place operations out of place"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_channels_is_refused(does: Any, where: str, reason: str) -> None:
    with pytest.raises(LoweringError) as caught:
        lower(Calls(does), SHAPE)
    assert reason in {problem.where: problem.reason for problem in caught.value.problems}[where]


def test_a_part_of_what_is_changed_in_place_afterwards_is_refused() -> None:
    def does(m: Any, x: Tensor) -> Tensor:
        part = x[:, 4:]
        return torch.relu_(x)[:, :4] + part

    with pytest.raises(LoweringError, match="changes a tensor in place that is read under another shape behind it"):
        lower(Calls(does), SHAPE)


def test_channels_of_which_parts_are_read_are_not_pruned() -> None:
    model = Calls(lambda m, x: m.head(m.rest(x[:, 4:])), rest=nn.Conv2d(4, 6, 1), head=nn.Conv2d(6, 5, 1))
    assert channel_groups(lower(model, SHAPE)) == (("rest",),)
    assert [group.name for group in find_groups(model, SHAPE)] == ["rest"]
