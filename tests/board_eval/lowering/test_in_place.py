"""Programs that change tensors in place, and keep copies of what they were, are lowered to what they compute or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval import lower, run_float
from edgesearch.board_eval.lowering._hooks import values_apart
from edgesearch.errors import LoweringError

CHANNELS, SIDE = 4, 6


class Program(nn.Module):
    """Convolutions and batch-norms with weights of all signs, called by a function of theirs and the image."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self._program = forward
        self.first, self.second, self.third = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))
        self.one, self.other = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.both, self.join = nn.BatchNorm2d(2 * CHANNELS), nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        numbers = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for norm in (self.one, self.other, self.both):
                for values in (norm.weight, norm.bias, norm.running_mean):
                    assert values is not None
                    values.normal_(generator=numbers)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self._program(self, x)
        return answer


def check(model: nn.Module) -> None:
    image = torch.randn(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    graph = lower(model, (CHANNELS, SIDE, SIDE))
    with torch.no_grad():
        expected = model.eval()(image.clone())
    found = run_float(graph, image.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-3, atol=1e-3)


def copied_then_changed(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    before = x.clone()
    x = F.relu(x, inplace=True)
    return torch.relu_(net.second(x) + net.one(before))


def joined_then_changed(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    joined = torch.cat([net.second(x), x], 1)
    x = F.relu(x, inplace=True)
    return net.join(torch.relu_(net.both(joined))) + x


def added_to_then_read(net: Any, x: Tensor) -> Tensor:
    total = net.first(x)
    before = total.clone()
    total.add_(net.second(x))
    return net.third(total) + F.relu(before)


def two_activations_of_one(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    kept = 1 * y
    y = F.relu(y, inplace=True)
    return net.second(y) + F.relu6(kept)


@pytest.mark.parametrize("program", [copied_then_changed, joined_then_changed, added_to_then_read, two_activations_of_one])
def test_what_was_read_before_a_change_stays_as_it_was(program: Any) -> None:
    check(Program(program))


#: One step of a program: what it does, and on which of the values so far.
STEPS = (
    "conv",
    "norm",
    "relu",
    "relu_",
    "relu6",
    "clamp_",
    "add",
    "add_",
    "iadd",
    "imul",
    "clone",
    "times",
    "view",
    "pool",
    "detach",
)
_Steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=6)


def run_steps(steps: list[tuple[str, int, int]], net: Any, x: Tensor) -> Tensor:
    layers, norms, values = [net.second, net.third], [net.one, net.other], [net.first(x)]
    values.append(values[0].clone())
    for step, one, other in steps:
        a, b = (values[-1 - place % len(values)] for place in (one, other))  # the latest ones
        if step == "iadd":
            a += b
            values.append(a)
            continue
        if step == "imul":
            a *= 1
            values.append(a)
            continue
        made = {
            "conv": lambda a=a, other=other: layers[other % 2](a),
            "norm": lambda a=a, other=other: norms[other % 2](a),
            "relu": lambda a=a: F.relu(a),
            "relu_": lambda a=a: a.relu_(),
            "relu6": lambda a=a: F.relu6(a),
            "clamp_": lambda a=a: a.clamp_(0, 6),
            "add": lambda a=a, b=b: a + b,
            "add_": lambda a=a, b=b: a.add_(b),
            "clone": lambda a=a: a.clone(),
            "times": lambda a=a: a * 1,
            "view": lambda a=a: a.view(a.shape),
            "pool": lambda a=a: F.max_pool2d(a, 3, 1, 1),
            "detach": lambda a=a: a.detach(),
        }
        values.append(made[step]())
    return values[-1] + values[-2] + values[0]


@given(_Steps)
@settings(max_examples=150, deadline=None)
def test_any_order_of_changes_and_copies_is_lowered_as_it_is_or_refused(steps: list[tuple[str, int, int]]) -> None:
    try:
        check(Program(lambda net, x: run_steps(steps, net, x)))
    except LoweringError as error:
        if "computes something else" in str(error):
            raise


def multiplied_by_one(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    y *= 1
    y /= 1
    y -= 0
    return net.second(y)


def test_what_changes_nothing_in_place_is_left_out() -> None:
    check(Program(multiplied_by_one))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda net, batch: net.first(batch["image"]), "takes 'image' out of a dictionary; the DPU is given one image"),
        (lambda net, x: x.mul_(x), "has a multiplication of two tensors of one shape"),
    ],
)
def test_what_the_dpu_is_not_given_is_told(program: Any, reason: str) -> None:
    with pytest.raises(LoweringError, match=reason):
        lower(Program(program), (CHANNELS, SIDE, SIDE))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_part_that_was_compiled_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.ReLU()))
    with pytest.raises(LoweringError, match="1 is a TorchScript program; give the"):
        lower(model, (3, 8, 8))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.compile(nn.Sequential(nn.ReLU())))
    with pytest.raises(LoweringError, match=r"1 was made by torch\.compile; give the"):
        lower(model, (3, 8, 8))


@pytest.mark.parametrize("found", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_is_far_away(found: float) -> None:
    model = nn.Sequential(nn.Conv2d(CHANNELS, 2, 1))
    shape = (CHANNELS, SIDE, SIDE)
    assert values_apart(model, lambda image: np.full((1, SIDE, SIDE, 2), found), shape) > 0
    assert values_apart(model, lambda image: run_float(lower(model, shape), image), shape) == 0


class Restless(nn.Module):
    """Keeps a part of it in training mode, or puts it there when it is called."""

    def __init__(self, layer: nn.Module, *, always: bool) -> None:
        super().__init__()
        self.conv, self.layer, self._always = nn.Conv2d(3, 8, 3), layer, always

    def train(self, mode: bool = True) -> Restless:
        super().train(mode)
        if self._always:
            self.layer.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer.train()(self.conv(x))
        return answer


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(), nn.BatchNorm2d(8)])
@pytest.mark.parametrize(
    ("always", "reason"),
    [(True, "layer stays in training mode when the network is put into evaluation"), (False, "computes something else, by ")],
)
def test_a_layer_that_stays_in_training_mode_is_refused(layer: nn.Module, always: bool, reason: str) -> None:
    with pytest.raises(LoweringError, match=reason):
        lower(Restless(layer, always=always), (3, 8, 8))
