"""Golden networks of AMD's tools, the torch models behind them, and a comparison of xmodel files that ignores names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.graph._averages import average_factor
from edgesearch.board_eval.graph._graph import (
    Activation,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    infer_shape,
)
from edgesearch.board_eval.xmodel._reader import read_xmodel
from edgesearch.board_eval.xmodel._wire import attribute, graph_message
from edgesearch.errors import GraphError

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


class BasicBlock(nn.Module):
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
            blocks = [
                BasicBlock(widths[i - 1] if j == 0 else widths[i], widths[i], 2 if i > 1 and j == 0 else 1) for j in range(3)
            ]
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
    from edgesearch.plugins import import_torchvision

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


# -- random networks

POSITIONS = st.integers(-3, 9)
ACTIVATIONS = st.sampled_from(["none", "relu", "relu6", "leaky_relu"])


def _pads(largest: int = 2) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(0, largest)] * 4)


class _Builder:
    """Draws a network node by node; every tensor that is not read ends up in the final concat."""

    def __init__(self, draw: st.DrawFn, bits: int) -> None:
        self.draw = draw
        self.bits = bits
        shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3)))
        self.nodes: list[Node] = [Input(name="in", inputs=(), shape=shape, fix=draw(POSITIONS))]

    def put(self, node: Node) -> str | None:
        """Add the node if its shape works out."""
        by_name = {n.name: n for n in self.nodes}
        sources = [by_name[s].shape for s in node.inputs]
        try:
            shape = infer_shape(node, sources)
        except GraphError:
            return None
        self.nodes.append(dataclasses.replace(node, shape=shape))
        return node.name

    def integers(self, shape: tuple[int, ...], fix: int) -> np.ndarray:
        low, high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        rng = np.random.default_rng(self.draw(st.integers(0, 2**32)))
        values = rng.integers(low, high + 1, shape) if self.draw(st.booleans()) else rng.integers(-2, 3, shape)
        return np.ldexp(values, -fix).astype(np.float32)

    def layer(self, source: Node, *, fix: int | None, same: bool = False) -> str | None:
        """A convolution; `same`: of the source's height and width."""
        draw, name = self.draw, f"n{len(self.nodes)}"
        weight_fix, bias_fix = draw(POSITIONS), draw(POSITIONS)
        common = {
            "name": name,
            "inputs": (source.name,),
            "weight_fix": weight_fix,
            "bias_fix": bias_fix,
            "fix": fix,
            "activation": draw(ACTIVATIONS),
        }
        size = st.just(1) if same else st.integers(1, 2)
        kernel = (
            (draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 3]))) if same else (draw(size), draw(st.integers(1, 3)))
        )
        half = (kernel[1] // 2, kernel[1] // 2, kernel[0] // 2, kernel[0] // 2)
        window = {
            "kernel": kernel,
            "stride": (draw(size), draw(size)),
            "padding": half if same else draw(_pads()),
            "dilation": (draw(size), draw(size)),
        }
        channels, bias_of = source.shape[-1], lambda n: self.integers((n,), bias_fix)
        if draw(st.booleans()):
            weight = self.integers((*kernel, channels), weight_fix)
            node: Node = Depthwise(shape=(1, 1, channels), weight=weight, bias=bias_of(channels), **common, **window)
        else:
            out = draw(st.integers(1, 3))
            weight = self.integers((out, *kernel, channels), weight_fix)
            node = Conv(shape=(1, 1, out), weight=weight, bias=bias_of(out), **common, **window)
        return self.put(node)

    def pool(self, source: Node) -> str | None:
        draw = self.draw
        kind = draw(st.sampled_from(["max", "avg"]))
        kernel = source.shape[:2] if draw(st.booleans()) else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        factor = draw(st.sampled_from([1.0, average_factor(kernel)])) if kind == "avg" else 1.0
        node = Pool(
            name=f"n{len(self.nodes)}",
            inputs=(source.name,),
            shape=source.shape,
            kind=kind,
            kernel=kernel,
            stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            padding=draw(_pads(1)),
            ceil_mode=draw(st.booleans()),
            factor=factor,
            fix=draw(POSITIONS),
        )
        return self.put(node)

    def step(self) -> None:
        draw = self.draw
        images = [n for n in self.nodes if len(n.shape) == 3 and n.fix is not None]
        source = draw(st.sampled_from(images))
        match draw(st.sampled_from(["layer", "layer", "pool", "add", "concat", "activation"])):
            case "layer":
                self.layer(source, fix=draw(POSITIONS))
            case "pool":
                self.pool(source)
            case "add":
                other = draw(st.sampled_from([n for n in images if n.shape == source.shape]))
                name, kind = f"n{len(self.nodes)}", draw(ACTIVATIONS)
                both = (source.name, other.name)
                self.put(Add(name=name, inputs=both, shape=source.shape, activation=kind, fix=draw(POSITIONS)))
            case "activation":
                kind, fix = draw(st.sampled_from(["relu", "relu6", "leaky_relu"])), draw(POSITIONS)
                name = f"n{len(self.nodes)}"
                self.put(Activation(name=name, inputs=(source.name,), shape=source.shape, activation=kind, fix=fix))
            case "concat":
                self.concat(source, images)

    def concat(self, source: Node, images: list[Node]) -> None:
        """Of a rounded tensor and, where one fits, a layer that only the concat reads and rounds."""
        draw, axis = self.draw, self.draw(st.sampled_from([0, 1, 2, 2]))
        fitting = [n for n in images if all(n.shape[i] == source.shape[i] for i in range(3) if i != axis)]
        parts = [source.name, *draw(st.lists(st.sampled_from([n.name for n in fitting]), max_size=2))]
        if axis == 2:
            unrounded = self.layer(source, fix=None, same=True)
            assert unrounded is not None
            parts.append(unrounded)
        self.put(Concat(name=f"n{len(self.nodes)}", inputs=tuple(parts), shape=source.shape, axis=axis, fix=draw(POSITIONS)))

    def graph(self) -> Graph:
        """All tensors that nobody reads, flattened, joined and multiplied."""
        draw = self.draw
        read = {s for n in self.nodes for s in n.inputs}
        flat = []
        for node in [n for n in self.nodes if n.name not in read]:
            flat.append(f"flat_{node.name}")
            self.nodes.append(Reshape(name=flat[-1], inputs=(node.name,), shape=(int(np.prod(node.shape)),)))
        total = sum(self.nodes[-i - 1].shape[0] for i in range(len(flat)))
        self.nodes.append(Concat(name="all", inputs=tuple(flat), shape=(total,), axis=0, fix=draw(POSITIONS)))
        weight_fix = draw(POSITIONS)
        weight, bias = self.integers((3, total), weight_fix), self.integers((3,), 2)
        self.nodes.append(
            Linear(
                name="fc",
                inputs=("all",),
                shape=(3,),
                weight=weight,
                bias=bias,
                weight_fix=weight_fix,
                bias_fix=2,
                fix=draw(POSITIONS),
                activation=draw(ACTIVATIONS),
            )
        )
        return Graph("Random", tuple(self.nodes), self.bits)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, np.ndarray]:
    builder = _Builder(draw, draw(st.sampled_from([8, 8, 8, 5])))
    for _ in range(draw(st.integers(1, 5))):
        builder.step()
    graph = builder.graph()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    half = 2 ** (graph.bits - 1)
    return graph, rng.integers(-half, half, (2, *graph.input.shape)).astype(np.int8)


@pytest.fixture(scope="session")
def random_networks() -> st.SearchStrategy[tuple[Graph, np.ndarray]]:
    """Small quantized networks of every kind of node, each with two quantized images."""
    return networks()
