"""A network's code is followed as for an image of one size: what the size decides is decided, what it does not is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.board_eval.graph import Conv, Pool
from edgesearch.board_eval.lowering import lower
from edgesearch.errors import LoweringError
from edgesearch.objectives.pruning import PrunableShape
from edgesearch.objectives.vitis import load_source, torch_source

from ._deciding import Decides, Layers, lowered


class Features(Layers):
    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return x if features else self.linear(x)


class Masked(Layers):
    def forward(self, x: Tensor | None = None, mask: Tensor | None = None, *, scale: float | None = None) -> Tensor:
        x = self.conv(x)
        if mask is not None:
            x = x + mask
        return x if scale is None else x * scale


class Anything(Layers):
    def forward(self, x: Tensor, *more: Tensor, **options: Any) -> Tensor:
        x = self.linear(self.conv(x).mean((2, 3)))
        for other in more:
            x = x + other
        return x * 2 if options.get("twice") else x


@pytest.mark.parametrize("kind", [Features, Masked, Anything])
def test_arguments_that_are_never_given_have_their_defaults(kind: type[nn.Module]) -> None:
    model = kind().eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert lowered(model, images).input.name == "x"


class Two(Layers):
    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.conv(x) + self.conv(y)


class Named(Layers):
    def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
        return self.conv(x) + y


@pytest.mark.parametrize(("model", "words"), [(Two(), "y .* a second input; the DPU is given one image"), (Named(), "'y'")])
def test_a_second_image_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(LoweringError, match=words):
        lower(model, (3, 8, 8))


def _by_channels(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    if y.shape[1] != x.shape[1]:
        y = net.same(y)
    return net.linear(y.mean((2, 3)))


def _by_side(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    while y.shape[-1] > 7:
        y = F.max_pool2d(y, 2)
    return net.linear(y.mean((2, 3)))


def _as_often_as_a_size_says(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    for _ in range(y.size(2) // 4):
        y = F.relu(net.same(y))
    return net.linear(y.mean((2, 3)))


def _with_whole_numbers(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    kernel = [int(side) for side in y.shape[2:]]
    assert min(kernel) == math.ceil(float(y.shape[2]))
    assert len(y.shape) == 4
    return net.linear(F.avg_pool2d(y, kernel).flatten(1))


def _with_what_it_expects(net: Any, x: Tensor) -> Tensor:
    if x.ndim != 4 or x.is_cuda or x.dtype != torch.float32:
        raise ValueError("expected images")
    torch._assert(x.shape[1] == 3, f"expected colours, got {x.shape}")
    height, _ = list(x.shape[2:])
    torch._assert(condition=height >= 8, message="too low")
    return net.linear(net.conv(x).mean((2, 3)))


_DECIDING = [_by_channels, _by_side, _as_often_as_a_size_says, _with_whole_numbers, _with_what_it_expects]


@pytest.mark.parametrize("forward", _DECIDING)
@pytest.mark.parametrize("side", [8, 13, 20])
def test_code_that_decides_by_sizes_goes_the_way_that_it_goes_for_such_an_image(forward: Any, side: int) -> None:
    torch.manual_seed(side)
    model = Decides(forward).eval()
    images = torch.randn(2, 3, side, side)
    drawn = torch.get_rng_state()
    lowered(model, images, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_one_network_of_one_side_goes_another_way_than_of_another() -> None:
    model = Decides(_by_side)
    pools = [sum(isinstance(node, Pool) for node in lower(model, (3, side, side))) for side in (8, 13, 20)]
    assert pools == [1, 2, 3]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda net, x: net.same(net.conv(x)) if x.sum() > 0 else net.conv(x), r"an `if`.* of values that depend on the image"),
        (lambda net, x: net.conv(x).view(len(x), -1), r"the length of what depends on the number of images; write -1"),
        (lambda net, x: net.conv(x).view(int(x.size(0)), -1), r"a whole number of what depends on the number of images"),
        (lambda net, x: net.conv(x) if x.shape[0] > 1 else x, r"an `if`.* of what depends on the number of images"),
        (lambda net, x: sum(net.conv(one) for one in x), r"the length of what depends on the number of images"),
        (lambda net, x: net.conv(x) * float(x.max()), r"a number of values that depend on the image"),
    ],
)
def test_what_no_size_decides_is_refused_with_its_place(forward: Any, words: str) -> None:
    with pytest.raises(LoweringError, match=words + r".* \(test_tracer.py, line \d+\)"):
        lower(Decides(forward), (3, 8, 8))


def test_a_network_says_itself_which_sizes_it_takes() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        if x.shape[1:] != (3, 8, 8):
            raise ValueError(f"expected 8 x 8, got {x.shape[2]} x {x.shape[3]:d}")
        return net.conv(x)

    lower(Decides(forward), (3, 8, 8))
    with pytest.raises(LoweringError, match=r"ValueError: expected 8 x 8, got 9 x 10 \(test_tracer.py, line \d+\)"):
        lower(Decides(forward), (3, 9, 10))


def test_a_tensor_in_a_message_is_named() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        raise ValueError(f"never {x} nor {x.shape[0]}")

    with pytest.raises(LoweringError, match=r"never Proxy\(x\) nor Proxy\(getitem\)"):
        lower(Decides(forward), (3, 8, 8))


def test_what_cannot_be_computed_leaves_the_rest_decided() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        wrong = F.conv2d(y, torch.zeros(1, 9, 1, 1))  # expects nine channels
        assert y.shape[1] == 4
        return y + wrong

    with pytest.raises(LoweringError, match="conv2d"):
        lower(Decides(forward), (3, 8, 8))


@pytest.mark.parametrize("forward", [_by_channels, _by_side, _as_often_as_a_size_says])
def test_such_networks_are_pruned_and_written_for_vitis_ai(forward: Any) -> None:
    torch.manual_seed(0)
    model = Decides(forward).eval()
    pruned = PrunableShape(model, (3, 12, 12)).at(ratio=0.5, granularity=1)
    image = torch.rand(1, 3, 12, 12)
    for network in (model, pruned):
        made = load_source(torch_source(network, (3, 12, 12)))
        with torch.no_grad():
            assert torch.equal(made(image), network(image))
    assert sum(one.numel() for one in pruned.parameters()) < sum(one.numel() for one in model.parameters())


# -- the network is left as it was


class Keeps(Layers):
    """Keeps, counts and draws while it runs."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.size: Any = None
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.conv(x)
        if self.size is None:
            self.size = self.features.shape[2:]
        self.calls += 1
        torch.rand(())
        return self.linear(F.avg_pool2d(self.features, self.size).flatten(1) + torch.tensor([1.0, 0, 0, 0]) * 0)


def test_what_a_network_keeps_while_it_is_traced_is_gone_behind_it() -> None:
    model, drawn = Keeps().eval(), torch.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        lower(model, (3, 8, 8))
    assert model.size is None
    assert not hasattr(model, "features")
    assert not [name for name in vars(model) if "constant" in name]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert isinstance(model(torch.rand(1, 3, 8, 8)), Tensor)


class Merges(Layers):
    """Doubles a weight for evaluation, and halves it for training, as networks do that merge a part of theirs."""

    def train(self, mode: bool = True) -> Merges:
        if mode != self.training:
            self.conv.weight.data *= 0.5 if mode else 2.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_what_a_network_does_for_evaluation_is_undone(training: bool) -> None:
    model = Merges().train(training)
    before = model.conv.weight.clone()
    graph = lower(model, (3, 8, 8))
    assert model.training is training
    assert torch.equal(model.conv.weight, before)
    evaluated = before * 2 if training else before
    conv = next(node for node in graph if isinstance(node, Conv))
    np.testing.assert_array_equal(conv.weight, evaluated.detach().permute(0, 2, 3, 1).numpy())


def test_a_branch_that_leads_nowhere_is_left_out_and_what_changes_a_tensor_is_not() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        torch.sigmoid(net.same(y)).softmax(1)  # for a loss in training, say
        F.relu(y, inplace=True)
        y.clamp_(0, 6)
        net.clip(y)
        return net.linear(y.mean((2, 3)))

    model = Decides(forward).eval()
    model.clip = nn.ReLU(inplace=True)
    assert sum(isinstance(node, Conv) for node in lowered(model, torch.randn(1, 3, 8, 8))) == 1
