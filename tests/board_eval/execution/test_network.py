"""A Graph as torch tensors: what its layers put out is what their sums of products are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgesearch.board_eval import lower
from edgesearch.board_eval.execution import Network, to_tensor


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((8, 8), (7, 7), (1, 2), (0, 0)),
        ((8, 3), (7, 7), (1, 3), (1, 3)),
        ((16, 8), (3, 8), (1, 8), (0, 0)),
        ((8, 8), (3, 3), 1, 1),
    ],
)
def test_convolutions_of_grey_images_read_nothing_but_the_image(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], reference: bool
) -> None:
    """In one memory layout torch 2.13 reads what lies behind such images, where their answers are one column wide."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 17, kernel, stride, padding)
    graph = lower(layer, (1, *size), target=None)
    network = Network.of(graph, reference=reference)
    for count in (1, 4):
        images = np.random.default_rng(count).normal(size=(count, *size, 1)).astype(np.float32)
        x = to_tensor(images)
        wanted = F.conv2d(x.double().contiguous(), layer.weight.double(), layer.bias.double(), stride, padding)  # type: ignore[union-attr]
        for found in (network.run(x), network.channels_last().run(x)):
            torch.testing.assert_close(found[graph.output.name].double(), wanted.detach(), atol=1e-4, rtol=1e-4)
