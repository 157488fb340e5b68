"""Numbers, buffers and parameters that values are multiplied with and added to: lowered, or refused with what can be done."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval import compile_xmodel, execute, load_profile, lower
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear
from edgesearch.objectives import quantize

from ._functions import assert_computes_the_same, refusals

Step = Callable[["Net", Tensor], Tensor]
SHAPE = (3, 8, 8)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


class Net(nn.Module):
    """conv, batch-norm, relu, pool, linear, with one `step` at the place `where`."""

    def __init__(self, where: str, step: Step) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.where, self.step = where, step
        self.conv, self.norm, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)
        self.head, self.last = nn.Linear(6 * 9, 6), nn.Linear(6, 4)
        self.gamma, self.single = nn.Parameter(torch.rand(6, 1, 1) + 0.5), nn.Parameter(torch.tensor(0.3))
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).reshape(3, 1, 1))
        self.flat = nn.Parameter(torch.rand(6) + 0.5)
        self.long = nn.Parameter(torch.rand(1, 6 * 9) - 0.5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1), self.norm.running_var.uniform_(0.5, 2), self.norm.weight.uniform_(0.5, 2)

    def at(self, where: str, x: Tensor) -> Tensor:
        return self.step(self, x) if self.where == where else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.at("image", x))
        x = self.norm(self.at("conv", x))
        x = torch.relu(self.at("norm", x))
        x = self.second(self.at("relu", x))
        x = self.at("map", nn.functional.max_pool2d(x, 2))
        x = self.head(self.at("flat", x.flatten(1)))
        return self.last(self.at("vector", torch.relu(self.at("head", x))))


def layers(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph if isinstance(node, Conv | Depthwise | Linear)]


PLAIN = ["Conv", "Conv", "Linear", "Linear"]
CASES: dict[str, tuple[str, Step, list[str]]] = {
    "an image normalised by buffers": ("image", lambda net, x: (x - net.mean) / net.std, ["Depthwise", *PLAIN]),
    "an image scaled by numbers": ("image", lambda net, x: 2 * x - 1, ["Depthwise", *PLAIN]),
    "a number less an image": ("image", lambda net, x: 1 - x, ["Depthwise", *PLAIN]),
    "a factor in front of a batch-norm": ("conv", lambda net, x: x * net.gamma, PLAIN),
    "a factor behind a batch-norm": ("norm", lambda net, x: net.gamma * x, PLAIN),
    "a parameter of one number": ("norm", lambda net, x: x * net.single + net.single, PLAIN),
    "a factor behind an activation": ("relu", lambda net, x: x * 0.5, ["Depthwise", *PLAIN]),
    "a shift behind a pool": ("map", lambda net, x: x + net.gamma, ["Depthwise", *PLAIN]),
    "a parameter in another shape": ("norm", lambda net, x: x * net.flat.view(1, -1, 1, 1), PLAIN),
    "a parameter by an index": ("norm", lambda net, x: x * net.flat[None, :, None, None].to(x), PLAIN),
    "a parameter where the image is": ("norm", lambda net, x: x * net.gamma.to(x.device).to(x.dtype).type_as(x), PLAIN),
    "a function of a parameter": ("norm", lambda net, x: x * torch.sigmoid(net.gamma), PLAIN),
    "each element of a flattened image": (
        "flat",
        lambda net, x: x * net.long,
        ["Depthwise", *PLAIN],
    ),
    "two in a row of a flattened image": (
        "flat",
        lambda net, x: x * net.long - net.long,
        [*PLAIN[:2], "Depthwise", *PLAIN[2:]],
    ),
    "a vector behind a linear layer": ("head", lambda net, x: x * net.flat - 0.5, PLAIN),
    "a vector behind an activation": ("vector", lambda net, x: x / net.flat, ["Depthwise", *PLAIN]),
    "methods": ("norm", lambda net, x: x.mul(net.gamma).sub(0.5).div(2).add(net.gamma), PLAIN),
    "functions": ("norm", lambda net, x: torch.add(torch.mul(x, net.gamma), 0.5), PLAIN),
    "in place": ("norm", lambda net, x: operator.iadd(x.mul_(net.gamma), 0.25), PLAIN),
    "in place behind an activation": ("relu", lambda net, x: operator.imul(x, 0.5), ["Depthwise", *PLAIN]),
    "beside a copy": ("norm", lambda net, x: x.clone().mul_(net.gamma) + x, ["Depthwise", *PLAIN]),
}


@pytest.mark.parametrize("case", CASES)
def test_constants_are_lowered(case: str) -> None:
    where, step, expected = CASES[case]
    assert sorted(layers(assert_computes_the_same(Net(where, step), SHAPE))) == sorted(expected)


@pytest.mark.parametrize("case", CASES)
def test_what_is_compiled_of_them_is_executed_alike(case: str) -> None:
    where, step, _ = CASES[case]
    graph = quantize(lower(Net(where, step).eval(), SHAPE), IMAGES, method="vitis")
    compiled = compile_xmodel(graph, load_profile("zcu104").dpu)  # executes its code, and compares
    assert len(compiled.instructions) > 0
    assert execute(graph, IMAGES).shape == (3, 4)


REFUSED: dict[str, tuple[str, Step, str, str]] = {
    "a number for each pixel": (
        "conv",
        lambda net, x: x * torch.ones(8, 8),
        "mul",
        "a constant of shape (8, 8) beside a value of 6",
    ),
    "a number for each column": (
        "map",
        lambda net, x: x + net.flat[:3],
        "add",
        "each channel, of shape (1, 6, 1, 1), or one for",
    ),
    "a division by zero": ("conv", lambda net, x: x / 0, "truediv", "not finite, or a division by zero"),
    "a number by an image": ("conv", lambda net, x: 1 / x, "truediv", "not among the operations"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_constants_are_refused(case: str) -> None:
    where, step, name, words = REFUSED[case]
    assert words in refusals(Net(where, step).eval(), SHAPE)[name]


def test_a_constant_that_is_joined_with_an_image_is_refused() -> None:
    step = lambda net, x: torch.cat([x, net.mean.expand(1, 3, 8, 8)], 1)  # noqa: E731
    assert "used outside a layer" in refusals(Net("image", step).eval(), SHAPE)["cat"]


def test_a_forward_that_was_put_on_a_layer_without_weights_is_seen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    relu: Any = model[1]
    relu.forward = lambda x: torch.relu(x) * 2
    assert layers(assert_computes_the_same(model, SHAPE)) == ["Conv", "Depthwise", "Conv"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("+-*/r"), st.sampled_from(["number", "gamma", "single"]), st.booleans()), max_size=5))
def test_any_chain_of_them_computes_the_same(steps: list[tuple[str, str, bool]]) -> None:
    functions: dict[str, Any] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

    def chain(net: Net, x: Tensor) -> Tensor:
        for kind, name, first in steps:
            constant: Any = 1.5 if name == "number" else getattr(net, name)
            if kind == "r":
                x = torch.relu(x)
            elif kind == "/" or first:
                x = functions[kind](x, constant)
            else:
                x = functions[kind](constant, x)
        return x

    for where in ("conv", "norm", "map"):
        assert_computes_the_same(Net(where, chain), SHAPE)
