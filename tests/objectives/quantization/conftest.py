"""The golden networks in floating point, and CIFAR-10 as they were given it; a network that has learnt the digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from edgesearch.board_eval.graph._graph import Graph
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.training import Recipe, train
from edgesearch.testing._quantizer import small_network

from ._qat import Net

Images = npt.NDArray[np.float32]


class _Block(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet20(nn.Module):
    """Names as in the golden weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        before = 16
        for stage, channels in enumerate((16, 32, 64), 1):
            first = _Block(before, channels, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, _Block(channels, channels, 1), _Block(channels, channels, 1)))
            before = channels
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict({name: torch.from_numpy(array) for name, array in np.load(path).items()}, strict=False)
    return model.eval()


@pytest.fixture(scope="session")
def resnet20_model(reference_data: Path) -> nn.Module:
    return _load(ResNet20(), reference_data / "golden" / "resnet20" / "resnet20_cifar10.npz")


@pytest.fixture(scope="session")
def resnet20(resnet20_model: nn.Module) -> Graph:
    return lower(resnet20_model, (3, 32, 32), name="ResNet20")


@pytest.fixture(scope="session")
def squeezenet(reference_data: Path) -> Graph:
    from edgesearch.plugins import import_torchvision

    model = import_torchvision().models.squeezenet1_0(num_classes=10)
    path = reference_data / "golden" / "squeezenet" / "squeezenet1_0_cifar10.npz"
    return lower(_load(model, path), (3, 224, 224), name="SqueezeNet")


@pytest.fixture(scope="session")
def cifar10(reference_data: Path) -> Callable[..., Images]:
    """cifar10("train_1", start, stop, size=32): normalised images of one of its files, in canonical order."""

    def load(name: str, start: int, stop: int, size: int = 32) -> Images:
        with Image.open(reference_data / "cifar10" / f"{name}.webp") as picture:
            grid = np.asarray(picture.convert("RGB")).reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        chosen = grid[start:stop]
        if size != 32:
            resized = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in chosen]
            chosen = np.stack([np.asarray(image) for image in resized])
        return ((chosen.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)

    return load


@pytest.fixture
def network() -> Graph:
    return small_network(np.random.default_rng(0))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.5, (40, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(DataSettings(train_images=1000, calibration_images=100))


@pytest.fixture(scope="module")
def few(data: DataSet) -> DataSet:
    return load_data(DataSettings(train_images=300, validation_images=50, calibration_images=64))


@pytest.fixture(scope="module")
def trained(data: DataSet) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    train(model, data, recipe=Recipe(epochs=4, lr=5e-3, augmentation="none"), input_size=None, seed=0, device="cpu")
    return model
