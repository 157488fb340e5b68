from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.graph import Conv, Graph, Pool
from edgesearch.board_eval.lowering import lower
from edgesearch.errors import LoweringError, SpaceError
from edgesearch.objectives.pruning import PrunableShape
from edgesearch.objectives.vitis import load_source, torch_source


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)


class Features(_Layers):
    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return x if features else self.linear(x)


class Masked(_Layers):
    def forward(self, x: Tensor | None = None, mask: Tensor | None = None, *, scale: float | None = None) -> Tensor:
        x = self.conv(x)
        if mask is not None:
            x = x + mask
        return x if scale is None else x * scale


class Anything(_Layers):
    def forward(self, x: Tensor, *more: Tensor, **options: Any) -> Tensor:
        x = self.linear(self.conv(x).mean((2, 3)))
        for other in more:
            x = x + other
        return x * 2 if options.get("twice") else x


def lowered(model: nn.Module, images: Tensor, *, atol: float = 1e-5) -> Graph:
    """The network's graph, which computes what the network computes of the images (N, C, H, W)."""
    with torch.no_grad():
        expected = model(images)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    _, channels, height, width = images.shape
    graph = lower(model, (channels, height, width))
    found = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found.reshape(expected.shape), expected.numpy(), atol=atol)
    return graph


@pytest.mark.parametrize("kind", [Features, Masked, Anything])
def test_arguments_that_are_never_given_have_their_defaults(kind: type[nn.Module]) -> None:
    model = kind().eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert lowered(model, images).input.name == "x"


class Two(_Layers):
    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.conv(x) + self.conv(y)


class Named(_Layers):
    def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
        return self.conv(x) + y


@pytest.mark.parametrize(("model", "words"), [(Two(), "y .* a second input; the DPU is given one image"), (Named(), "'y'")])
def test_a_second_image_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(LoweringError, match=words):
        lower(model, (3, 8, 8))


class Decides(_Layers):
    """Computes what it was given to compute, with two layers and a head."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.same, self.body = nn.Conv2d(4, 4, 3, padding=1), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


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


# -- the ways in which code may ask what it was given


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


# -- the network is left as it was


class Keeps(_Layers):
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
        with pytest.raises(LoweringError, match="a constant"):
            lower(model, (3, 8, 8))
    assert model.size is None
    assert not hasattr(model, "features")
    assert not [name for name in vars(model) if "constant" in name]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert isinstance(model(torch.rand(1, 3, 8, 8)), Tensor)


class Merges(_Layers):
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
    with pytest.raises(SpaceError, match=r"Decides cannot be pruned, since it fails with two images at once: "):
        PrunableShape(Decides(forward), (3, 8, 8))


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
