"""Golden networks of AMD's tools, the torch models behind them, and a comparison of xmodel files that ignores names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgesearch.board_eval._graph import Graph
from edgesearch.board_eval._xir_wire import attribute, graph_message
from edgesearch.board_eval._xmodel import read_xmodel

_FILES = {"squeezenet": "SqueezeNet_int.xmodel", "resnet20": "ResNet20_int.xmodel", "tiny": "tiny.xmodel"}


@dataclass(frozen=True)
class Golden:
    """One golden network: AMD's xmodel read, images as its tools were given them, and what its tools computed."""

    name: str
    folder: Path
    graph: Graph
    images: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    @property
    def xmodel(self) -> Path:
        return self.folder / _FILES[self.name]

    def fix_tensors(self) -> dict[int, dict[str, npt.NDArray[np.int8]]]:
        """Image number -> fix operation -> what AMD's runner computed."""
        return {k: dict(np.load(f)) for k in (0, 3) if (f := self.folder / f"fix_tensors_image{k}.npz").exists()}


def _normalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return ((images.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)


@pytest.fixture(scope="session")
def golden(reference_data: Path) -> Callable[[str], Golden]:
    """Golden networks by name: squeezenet, resnet20, tiny."""
    cache: dict[str, Golden] = {}

    def load(name: str) -> Golden:
        if name not in cache:
            folder = reference_data / "golden" / name
            if name == "tiny":
                images, logits = np.load(folder / "input_0_3.npy"), np.load(folder / "logits_0_3.npy")
            else:
                suffix = "images_u8_0_19.npy" if name == "resnet20" else "images_u8_0_19.npz"
                pixels = np.load(folder / suffix)
                images = _normalise(pixels if name == "resnet20" else pixels["images"])
                logits = np.load(folder / "logits_0_19.npy")
            cache[name] = Golden(name, folder, read_xmodel(folder / _FILES[name]), images, logits)
        return cache[name]

    return load


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu2(y)


class ResNet20(nn.Module):
    """The CIFAR-10 ResNet-20 of the golden files."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        widths = (16, 16, 32, 64)
        for i in (1, 2, 3):
            blocks = [_Block(widths[i - 1] if j == 0 else widths[i], widths[i], 2 if i > 1 and j == 0 else 1) for j in range(3)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.avgpool(x)
        return self.fc(x.view(x.size(0), -1))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(path).items()}, strict=False)
    return model.eval()


@pytest.fixture(scope="session")
def resnet20_float(reference_data: Path) -> nn.Module:
    return load_weights(ResNet20(), reference_data / "golden" / "resnet20" / "resnet20_cifar10.npz")


@pytest.fixture(scope="session")
def squeezenet_float(reference_data: Path) -> nn.Module:
    """torchvision's squeezenet1_0 with ten classes and the golden float weights."""
    from edgesearch.spaces._torchvision import import_torchvision

    model = import_torchvision().models.squeezenet1_0(num_classes=10)
    return load_weights(model, reference_data / "golden" / "squeezenet" / "squeezenet1_0_cifar10.npz")


def _structure(path: Path) -> Counter[str]:
    """Every operation of an xmodel by what it is and everything it depends on, names left out."""
    message = graph_message()()
    message.ParseFromString(path.read_bytes())
    seen: dict[str, str] = {}
    for op in message.op_node:
        attributes = []
        for key, value in sorted(op.op_attr.items()):
            kind, content = value.WhichOneof("value"), attribute(value)
            if kind == "bytes_value":  # -0.0 and 0.0 are the same constant
                content = (np.frombuffer(content, "<f4") + np.float32(0)).tobytes()
            attributes.append((key, kind, content))
        tensor = op.output_tensor
        about_tensor = [(k, v.WhichOneof("value"), attribute(v)) for k, v in sorted(tensor.tensor_attr.items())]
        about_tensor.append((list(tensor.tensor_dim), tensor.data_type, tensor.tensor_bit_width))
        arguments = [(a.arg_name, [seen[name] for name in a.arg_ops]) for a in op.args]
        seen[op.op_name] = hashlib.sha256(repr((op.op_type, attributes, arguments, about_tensor)).encode()).hexdigest()
    root = message.subg_root
    about_graph = (dict(message.graph_attr), root.subgraph_name, sorted(seen[n] for n in root.op_name), dict(root.subg_attr))
    return Counter([*seen.values(), hashlib.sha256(repr(about_graph).encode()).hexdigest()])


@pytest.fixture(scope="session")
def structural_differences() -> Callable[[Path, Path], int]:
    """Operations of either xmodel without an equal in the other: type, attributes, shapes, constants, everything upstream."""

    def compare(a: Path, b: Path) -> int:
        left, right = _structure(a), _structure(b)
        return (left - right).total() + (right - left).total()

    return compare
