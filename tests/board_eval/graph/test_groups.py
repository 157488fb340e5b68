"""Weights of convolutions in groups, as a Graph has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesearch.board_eval.execution import block_mask, blocks, spread_blocks
from edgesearch.board_eval.graph import Conv, Graph, Input, group_mask, groups_of, parts_of
from edgesearch.errors import GraphError


def weights(groups: int, made: int, read: int, seed: int) -> Tensor:
    return torch.randn(groups * made, read, 3, 3, generator=torch.Generator().manual_seed(seed))


SIZES = (st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))


@given(*SIZES)
def test_a_full_convolution_with_them_is_the_one_in_groups(groups: int, made: int, read: int, seed: int) -> None:
    weight = weights(groups, made, read, seed)
    whole = spread_blocks(weight, block_mask(weight, groups))
    x = torch.randn(1, groups * read, 5, 5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(F.conv2d(x, whole), F.conv2d(x, weight, groups=groups), rtol=1e-4, atol=1e-4)
    assert torch.equal(blocks(whole, groups), weight)
    assert groups_of(whole.permute(0, 2, 3, 1).numpy()) == groups


def test_weights_without_a_pattern_are_one_group() -> None:
    weight = np.ones((4, 3, 3, 4), np.float32)
    assert groups_of(weight) == 1
    weight[0, :, :, 2:] = weight[1, :, :, 2:] = 0  # the first half reads the first half; the second all
    assert groups_of(weight) == 1
    weight[2:, :, :, :2] = 0
    assert groups_of(weight) == 2
    assert groups_of(np.zeros((4, 1, 1, 4), np.float32)) == 1
    assert groups_of(np.ones((3, 1, 1, 2), np.float32)) == 1


def test_weights_of_one_input_each_are_picks() -> None:
    weight = np.zeros((3, 1, 1, 6), np.float32)
    weight[[0, 1, 2], 0, 0, [0, 2, 5]] = 1, -0.5, 2
    assert parts_of(weight) == {"picks": (0, 2, 5)}
    weight[0, 0, 0, 1] = 1
    assert parts_of(weight) == {"groups": 3}
    assert parts_of(np.ones((3, 1, 1, 1), np.float32)) == {"groups": 1}


@pytest.mark.parametrize(
    ("picks", "more"), [((0, 2), {}), ((0, 1, 2, 6), {}), ((0, 1, 2, 3), {"groups": 2}), ((0, 1, 2, 3), {"kernel": (3, 3)})]
)
def test_picks_that_do_not_go_with_a_convolution_are_refused(picks: tuple[int, ...], more: dict[str, Any]) -> None:
    image = Input(name="image", inputs=(), shape=(4, 4, 6))
    what: Any = {"kernel": (1, 1), "padding": (1, 1, 1, 1) if "kernel" in more else (0, 0, 0, 0), "has_bias": False, **more}
    with pytest.raises(GraphError, match=r"'conv': kernel .* picks . of 6 channels as 4"):
        Graph("network", (image, Conv(name="conv", inputs=("image",), shape=(4, 4, 4), picks=picks, **what)))


def network(groups: int, weight: np.ndarray | None = None) -> Graph:
    image = Input(name="image", inputs=(), shape=(4, 4, 6))
    conv = Conv(name="conv", inputs=("image",), shape=(4, 4, 4), kernel=(1, 1), groups=groups, weight=weight, has_bias=False)
    return Graph("network", (image, conv))


def test_macs_and_parameters_are_those_of_the_groups_and_bytes_those_that_are_stored() -> None:
    graph = network(2)
    assert (graph.macs, graph.parameters, graph.weight_bytes) == (16 * 4 * 3, 4 * 3, 4 * 6)


@pytest.mark.parametrize("groups", [0, 3, 4])
def test_groups_that_divide_not_both_are_refused(groups: int) -> None:
    with pytest.raises(GraphError, match=f"'conv': {groups} groups of 6 channels to 4; use a divisor"):
        network(groups)


def test_weights_between_groups_are_refused() -> None:
    weight = np.where(group_mask(4, 6, 2)[:, None, None], np.float32(1), np.float32(0))
    network(2, weight)
    weight[3, 0, 0, 0] = 1
    with pytest.raises(GraphError, match="weights between its groups, or of channels that it does not pick, are not zero"):
        network(2, weight)
