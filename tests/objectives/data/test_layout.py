"""Networks whose code needs maps in plain order are computed in it; all others with channels last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgesearch.objectives.data import answer_of, settle_layout


class Viewed(nn.Module):
    """What many tutorials do behind convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        answer: Tensor = self.fc(maps.view(maps.size(0), -1))
        return answer


def is_plain(model: Viewed) -> bool:
    return model.conv.weight.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_computed_in_plain_order(channels: int) -> None:
    model, images = Viewed(channels).eval(), torch.rand(2, channels, 4, 4)
    expected = model(images)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lying = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    with pytest.raises(RuntimeError, match="view size"):
        model(lying)
    torch.testing.assert_close(answer_of(model, lying), expected)
    torch.testing.assert_close(model(lying), expected)  # it takes them from now on
    assert is_plain(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(answer_of(model, lying), expected)


def test_what_is_settled_counts_nothing_and_keeps_the_modes() -> None:
    model = Viewed(3).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model.norm.eval()
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    torch.set_rng_state(before)
    settle_layout(model, images)
    assert is_plain(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model(images).sum().backward()


def test_other_networks_keep_channels_last_and_what_else_they_raise_is_raised() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(24, 2))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    settle_layout(model, images)
    assert not model._forward_pre_hooks
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    settle_layout(model, images[:, :2])
    with pytest.raises(RuntimeError, match="channels"):
        answer_of(model, images[:, :2])
