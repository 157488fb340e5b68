from __future__ import annotations

from torch import nn

from edgesearch.objectives.pruning._macs import layer_macs, quiet


def test_macs_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 2 * 2, 5))
    assert list(layer_macs(model, (3, 8, 8)).values()) == [3 * 8 * 9 * 16, 8 * 9 * 4, 8 * 4 * 5]
    model[1].eval()
    with quiet(model):
        assert not model.training
    assert model.training
    assert not model[1].training
