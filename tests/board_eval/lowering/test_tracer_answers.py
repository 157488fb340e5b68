"""Code that asks for sizes, types and numbers of channels is answered as by a tensor, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.board_eval.graph import Conv
from edgesearch.board_eval.lowering import lower
from edgesearch.errors import LoweringError, SpaceError
from edgesearch.objectives.pruning import PrunableShape

from ._deciding import Decides, lowered


def _body(decide: Callable[[Any, Tensor], bool]) -> Callable[[Any, Tensor], Tensor]:
    """A second convolution where the code decides for it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        if decide(net, y):
            y = F.relu(net.same(y))
        return net.linear(y.mean((2, 3)))

    return forward


def _unpacks(net: Any, y: Tensor) -> bool:
    try:
        _images, _channels, _height = y.shape
    except ValueError:
        return True
    return False


_ASKING: dict[str, Callable[[Any, Tensor], Any]] = {
    "set": lambda net, y: y.shape[2] in {6, 24},
    "dictionary": lambda net, y: {6: True}.get(y.shape[2], False),
    "text": lambda net, y: str(y.shape[2]) in ("6", "24"),
    "kind": lambda net, y: isinstance(y.shape[2], int) and y.shape[2] > 4,
    "attribute": lambda net, y: not hasattr(y, "tensors"),
    "unpacked": _unpacks,
    "tuple": lambda net, y: tuple(y.shape[1:]) == (4, 6, 6),
    "size": lambda net, y: y.shape[1:] == torch.Size([4, 6, 6]),
    "elements": lambda net, y: y.shape[1:].numel() == 144 and math.prod(y.shape[1:]) == 144,
    "rounded": lambda net, y: round(y.shape[2] / 1) == 6 and divmod(y.size(3), 4) == (1, 2),
    "numpy": lambda net, y: int(np.prod(y.shape[1:])) == 144,
    "type": lambda net, y: y.dtype is torch.float32 and y.device.type == "cpu" and y.is_floating_point(),
    "place": lambda net, y: y.to(y.device).cpu().to(net.same.weight).to("cpu", torch.float32).shape[2] == 6,
    "rank": lambda net, y: y.dim() in {4} and y.ndimension() == 4,
    "parameter": lambda net, y: y.shape[1] == net.same.weight.shape[0] and net.same.weight.dtype == y.dtype,
    "gate": lambda net, y: net.gate > 0.5,
    "buffer": lambda net, y: bool(net.open),
    "index": lambda net, y: net.ways[y.shape[1] - 4],
    "name": lambda net, y: {"h6": True}["h" + str(y.shape[2])],
}


class Gated(Decides):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(forward)
        self.gate, self.ways = nn.Parameter(torch.tensor(0.7)), [True]
        self.register_buffer("open", torch.tensor(True))


@pytest.mark.parametrize("asks", _ASKING)
def test_what_code_asks_of_sizes_and_types_is_answered_as_by_a_tensor(asks: str) -> None:
    torch.manual_seed(0)
    model = Gated(_body(_ASKING[asks])).eval()
    assert sum(isinstance(node, Conv) for node in lowered(model, torch.randn(1, 3, 8, 8))) == 2


def _length_or_nothing(net: Any, y: Tensor) -> bool:
    try:
        return len(y) > 0
    except Exception:
        return False


@pytest.mark.parametrize(
    ("decide", "words"),
    [
        (lambda net, y: isinstance(y, Tensor), "its code decides by what only a tensor has"),
        (lambda net, y: torch.is_tensor(y), "its code decides by what only a tensor has"),
        (_length_or_nothing, "the length of what depends on the number of images"),
        (lambda net, y: y.shape[0] in {1, 4}, "a comparison of what depends on the number of images"),
        (lambda net, y: y.size(0) == 1, "an `if`, `while` or `assert` of what depends on the number of images"),
        (lambda net, y: y.numel() > 200, "an `if`, `while` or `assert` of what depends on the number of images"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_nothing_else_is_lowered(decide: Any, words: str) -> None:
    with pytest.raises(LoweringError, match=words):
        lower(Decides(_body(decide)), (3, 8, 8))


@pytest.mark.parametrize(
    "reshape",
    [
        lambda y: y.view(y.shape[:1] + (-1,)),  # noqa: RUF005
        lambda y: y.view((y.size(0), *(-1,))),
        lambda y: y.view(y.shape[0], math.prod(y.shape[1:])),
        lambda y: y.reshape(y.size()[0], y.shape[1:].numel()),
        lambda y: y.to(y.dtype).view(-1, y.shape[1] * y.shape[2] * y.shape[3]),
    ],
)
def test_the_number_of_images_stays_open(reshape: Any) -> None:
    head = nn.Linear(4 * 6 * 6, 2)

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.wide(reshape(net.conv(x)))

    model = Decides(forward).eval()
    model.wide = head
    lowered(model, torch.randn(3, 3, 8, 8))


# -- pruning, where the code may decide by a number of channels


class Halves(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return y + x if y.shape[1] == x.shape[1] else y


def test_channels_whose_number_decides_stay() -> None:
    blocks = Halves(3, 8, 1), Halves(8, 16, 2)
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    wide = Decides(_body(lambda net, y: y.shape[1] > 8)).eval()
    wide.conv, wide.same, wide.linear = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)
    for model in (network, wide):
        for ratio in (0.3, 0.5, 0.8):
            pruned = PrunableShape(model, (3, 12, 12)).at(ratio=ratio, granularity=1)
            assert pruned(torch.rand(1, 3, 12, 12)).shape == (1, 4)
            kinds = [[type(node) for node in lower(one, (3, 12, 12))] for one in (model, pruned)]
            assert kinds[0] == kinds[1]


def test_a_network_for_one_image_alone_is_not_pruned() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.linear(net.conv(x).mean((2, 3)).view(1, -1))

    lower(Decides(forward), (3, 8, 8))
    with pytest.raises(SpaceError, match=r"Decides cannot be pruned, since it fails with two images of \(3, 8, 8\) at once: "):
        PrunableShape(Decides(forward), (3, 8, 8))
