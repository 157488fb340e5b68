"""Heads of several vectors, maxima over an image, and zeros in front of pools: lowered to what torch computes, and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval import compile_xmodel, execute, load_profile, lower, run_float
from edgesearch.board_eval.graph import Graph
from edgesearch.errors import LoweringError
from edgesearch.objectives import quantize

from ._functions import Function, assert_computes_the_same, kinds, refusals

SHAPE = (3, 12, 16)


def conv(reads: int, makes: int) -> nn.Conv2d:
    return nn.Conv2d(reads, makes, 3, padding=1)


def pooled(net: Any, x: Tensor) -> Tensor:
    return F.relu(net.conv(x)).mean((2, 3))


NETWORKS = {
    "average and maximum": Function(
        lambda net, x: net.head(torch.cat([net.conv(x).mean((2, 3)), net.conv(x).amax((2, 3))], 1)),
        conv=conv(3, 8),
        head=nn.Linear(16, 4),
    ),
    "maximum that keeps its sides": Function(lambda net, x: net.conv(x).amax((-1, -2), keepdim=True), conv=conv(3, 8)),
    "wide and deep": Function(
        lambda net, x: net.head(torch.cat([F.relu(net.deep(pooled(net, x))), pooled(net, x)], -1)),
        conv=conv(3, 8),
        deep=nn.Linear(8, 5),
        head=nn.Linear(13, 4),
    ),
    "one twice": Function(lambda net, x: torch.cat([pooled(net, x)] * 2, 1), conv=conv(3, 8)),
    "normed": Function(
        lambda net, x: F.relu(net.norm(torch.cat([net.deep(pooled(net, x)), pooled(net, x)], 1))),
        conv=conv(3, 8),
        deep=nn.Linear(8, 5),
        norm=nn.BatchNorm1d(13),
    ),
    "a max pool with zeros on two sides": Function(
        lambda net, x: F.max_pool2d(F.pad(F.relu(net.conv(x)), (0, 1, 0, 1)), 3, 2), conv=conv(3, 8)
    ),
    "a max pool behind ReLU6 and a pool": Function(
        lambda net, x: F.max_pool2d(F.pad(F.max_pool2d(F.relu6(net.conv(x)), 2), (1, 1)), 3, 2, 1), conv=conv(3, 8)
    ),
    "an average pool with zeros": Function(
        lambda net, x: F.avg_pool2d(F.pad(net.conv(x), (1, 0, 0, 1)), 2, 2), conv=conv(3, 8)
    ),
    "zeros around zeros": Function(
        lambda net, x: net.bare(F.pad(F.pad(x, (1, 0, 2, 0)), (0, 1, 0, 1))), bare=nn.Conv2d(3, 8, 3, stride=2)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_they_compute_the_same(name: str) -> None:
    assert_computes_the_same(NETWORKS[name], SHAPE)


def calibrated(model: nn.Module) -> tuple[Graph, np.ndarray]:
    images = np.random.default_rng(0).standard_normal((4, *SHAPE[1:], SHAPE[0])).astype(np.float32)
    return quantize(lower(model.eval(), SHAPE), images, method="vitis"), images


@pytest.mark.parametrize("name", NETWORKS)
def test_their_code_gives_their_integers(name: str) -> None:
    quantized, images = calibrated(NETWORKS[name])
    code = compile_xmodel(quantized, load_profile("zcu104").dpu, images=images[:2])
    np.testing.assert_array_equal(code.execute(images[2:]), execute(quantized, images[2:]).reshape(2, -1))


def test_what_was_an_image_of_one_pixel_is_joined_as_such() -> None:
    graph = lower(NETWORKS["average and maximum"].eval(), SHAPE)
    assert kinds(graph) == ["Input", "Conv", "Pool", "Conv", "Pool", "Concat", "Reshape", "Linear"]


_Sides = st.tuples(*[st.integers(0, 2)] * 4)


@given(st.sampled_from(["max", "average"]), _Sides, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.booleans())
@settings(max_examples=150, deadline=None)
def test_zeros_in_front_of_any_pool_are_its_own_or_refused(
    kind: str, sides: tuple[int, ...], kernel: int, stride: int, padding: int, ceil: bool
) -> None:
    pool = F.max_pool2d if kind == "max" else F.avg_pool2d

    def forward(net: Any, x: Tensor) -> Tensor:
        answer: Tensor = pool(F.pad(F.relu(net.conv(x)), sides), kernel, stride, padding, ceil_mode=ceil)  # type: ignore[operator]
        return answer

    model = Function(forward, conv=conv(3, 4))
    try:
        graph = lower(model.eval(), (3, 7, 6), target=None)
    except LoweringError as error:
        if "computes something else" in str(error):
            raise
        return
    images = torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        expected = model(images).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(run_float(graph, images.permute(0, 2, 3, 1).numpy()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("forward", "where", "reason"),
    [
        (
            lambda net, x: F.max_pool2d(F.pad(net.conv(x), (0, 1)), 3, 2),
            "max_pool2d",
            "the largest values where the image's are",
        ),
        (lambda net, x: F.max_pool2d(F.pad(F.relu(net.conv(x)), (2, 2)), 2), "max_pool2d", "a window would lie in zeros alone"),
        (lambda net, x: torch.cat([net.conv(x).flatten(1)] * 2, 1), "cat", "join them along their channels, in front of"),
        (lambda net, x: torch.cat([pooled(net, x)] * 2, 0), "cat", "expects an image"),
        (lambda net, x: net.conv(x).amax(1), "amax", "has a maximum over a dimension, this tool does not yet"),
        (lambda net, x: net.conv(x).amax(), "amax", "has a maximum over a dimension, this tool does not yet"),
    ],
)
def test_what_differs_is_refused(forward: Any, where: str, reason: str) -> None:
    assert reason in refusals(Function(forward, conv=conv(3, 8)), SHAPE)[where]
