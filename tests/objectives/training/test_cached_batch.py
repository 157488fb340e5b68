"""How many images suit a network's values on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgesearch.objectives.training._cached_batch import cached_batch
from edgesearch.spaces import Student, build


def test_the_largest_values_decide() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 8, 3)).eval()
    # 64 channels of 32 x 32 in float32 are 256 kB for an image: 64 of them are the 16 MB of the docstring.
    assert cached_batch(model, torch.zeros(2, 3, 32, 32), 256) == 64
    assert cached_batch(model, torch.zeros(1, 3, 32, 32), 256) == 64
    assert cached_batch(model, torch.zeros(2, 3, 64, 64), 256) == 16
    assert cached_batch(model, torch.zeros(2, 3, 8, 8), 256) == 256


def test_weights_do_not_count_and_values_between_functions_do() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 20_000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([x] * 64, 1).mean((2, 3)))[:, :10]

    assert cached_batch(Wide(), torch.zeros(2, 1, 128, 128), 256) == 4


def test_a_network_that_memory_does_not_suffice_for_gets_one_image() -> None:
    class Full(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")

    assert cached_batch(Full(), torch.zeros(2, 3, 8, 8), 256) == 1
    with pytest.raises(IndexError):
        cached_batch(nn.Sequential(*[Broken()]), torch.zeros(2, 3, 8, 8), 256)


def test_a_network_that_takes_images_in_plain_order_alone_is_shown_such() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 64, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.conv(x)
            return maps.view(len(maps), -1).mean(1, keepdim=True)

    images = torch.zeros(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert cached_batch(Viewing().eval(), images, 256) == 64


class Broken(nn.Module):
    """A network with a fault of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise IndexError("of its own")


@pytest.mark.parametrize(("name", "batch"), [("mobile_small", 21), ("resnet20", 256)])
def test_presets(name: str, batch: int) -> None:
    model = build(Student(architecture=name, input_size=32), channels=3, classes=10).eval()
    assert cached_batch(model, torch.zeros(2, 3, 32, 32), 256) == batch
