"""The golden networks as torch models and as images, for benchmarks that need both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from _report import REFERENCE_DATA
from torch import nn

from edgesearch.plugins import import_torchvision

GOLDEN = REFERENCE_DATA / "golden"
XMODELS = {
    "squeezenet": GOLDEN / "squeezenet" / "SqueezeNet_int.xmodel",
    "resnet20": GOLDEN / "resnet20" / "ResNet20_int.xmodel",
    "tiny": GOLDEN / "tiny" / "tiny.xmodel",
}


def normalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """8-bit pixels as the golden networks were given them: (u8 / 255 - 0.5) / 0.5."""
    return ((images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)


def images(name: str) -> npt.NDArray[np.float32]:
    """The golden images of a network, (N, H, W, C)."""
    if name == "tiny":
        return np.load(GOLDEN / "tiny" / "input_0_3.npy")
    if name == "resnet20":
        return normalise(np.load(GOLDEN / "resnet20" / "images_u8_0_19.npy"))
    return normalise(np.load(GOLDEN / "squeezenet" / "images_u8_0_19.npz")["images"])


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet20(nn.Module):
    """The CIFAR-10 ResNet-20 of the golden files."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        for i, (before, width) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            rest = [_Block(width, width, 1) for _ in range(2)]
            self.add_module(f"layer{i}", nn.Sequential(_Block(before, width, 1 if i == 1 else 2), *rest))
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(x, 1))


def float_model(name: str) -> nn.Module:
    """squeezenet or resnet20 with the golden float weights, in evaluation mode."""
    if name == "resnet20":
        model, file = ResNet20(), GOLDEN / "resnet20" / "resnet20_cifar10.npz"
    else:
        model = import_torchvision().models.squeezenet1_0(num_classes=10)
        file = GOLDEN / "squeezenet" / "squeezenet1_0_cifar10.npz"
    model.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(file).items()}, strict=False)
    return model.eval()
