from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import run_float
from edgesearch.board_eval.lowering import lower
from edgesearch.errors import LoweringError


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


@pytest.mark.parametrize("kind", [Features, Masked, Anything])
def test_arguments_that_are_never_given_have_their_defaults(kind: type[nn.Module]) -> None:
    model = kind().eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    graph = lower(model, (3, 8, 8))
    assert graph.input.name == "x"
    found = run_float(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found.reshape(expected.shape), expected.numpy(), atol=1e-5)


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
