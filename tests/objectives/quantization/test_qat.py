"""Training on the DPU's grid: what it computes is what the integers compute, and it repairs what rounding broke."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgesearch.board_eval.execution import to_tensor
from edgesearch.board_eval.execution._execute import execute
from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.lowering._trace import lower, lower_with_sources
from edgesearch.errors import QuantizationError, TrainingError
from edgesearch.objectives import Store
from edgesearch.objectives.data import Normalisation
from edgesearch.objectives.quantization._best import find_grids
from edgesearch.objectives.quantization._qat import QatBatch, QatSettings, start, train_qat
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.training import FeatureTeacher, Hints

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """conv-bn-relu, a residual add, relu6 and depthwise behind batch-norm, a linear layer with batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.hidden = nn.Sequential(nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.pool, self.classes = nn.MaxPool2d(2), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.point(self.depthwise(x)) + x)
        return self.classes(self.hidden(torch.flatten(self.pool(self.wide(x)), 1)))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    images = ((data.images / 16 - 0.5) / 0.5).astype(np.float32)[..., None]
    return images, data.target.astype(np.int64)


def batches_of(images: np.ndarray, labels: np.ndarray, teacher: nn.Module | None = None) -> Callable[[int], Iterable[Any]]:
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        for index in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            logits = None
            if teacher is not None:
                with torch.no_grad():
                    logits = teacher(x[index])
            yield x[index], y[index], logits

    return batches


@pytest.fixture(scope="module")
def trained(digits: tuple[np.ndarray, np.ndarray]) -> nn.Module:
    torch.manual_seed(0)
    model, batches = Net(), batches_of(digits[0][:1000], digits[1][:1000])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for epoch in range(4):
        for x, y, _ in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def accuracy(graph: Graph, digits: tuple[np.ndarray, np.ndarray]) -> float:
    return float((execute(graph, digits[0][1000:]).argmax(1) == digits[1][1000:]).mean())


def same(one: Graph, two: Graph) -> bool:
    return all(
        a.fix == b.fix and (not isinstance(a, Conv | Depthwise | Linear) or np.array_equal(a.weight, b.weight))
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("bits", [8, 5])
def test_evaluation_computes_the_integers(trained: nn.Module, digits: tuple[np.ndarray, np.ndarray], bits: int) -> None:
    images = digits[0]
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), bits)
    start(network, images[:100], bits, 0, scale=True)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert np.array_equal(logits, execute(network.to_graph(), images))


def test_scaled_channels_leave_the_float_network_as_it_was(trained: nn.Module, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images = to_tensor(digits[0][:100])
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    before = network.to_network()
    with torch.no_grad():
        network.rescale(find_grids(before, images, 8, 0).scales)
    after = network.to_network()
    assert any(not torch.allclose(after.weights[name], weight) for name, weight in before.weights.items())
    with torch.no_grad():
        assert torch.allclose(after.logits(images), before.logits(images), atol=1e-4)


def test_corrected_biases_are_taken_where_no_batch_norm_finds_its_own(
    trained: nn.Module, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    before = network.to_network().biases
    start(network, digits[0][:100], 8, 0, scale=False)
    changed = {name for name, bias in network.to_network().biases.items() if not torch.allclose(bias, before[name], rtol=1e-3)}
    assert changed == {network.graph.output.name}


def test_every_parameter_trains_even_if_the_model_was_frozen(trained: nn.Module) -> None:
    frozen = copy.deepcopy(trained).requires_grad_(False)
    network = QatNetwork(frozen, lower_with_sources(frozen, SHAPE), 8)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_five_bits_are_repaired_and_stored_in_five_bits(trained: nn.Module, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits[0][:1000], digits[1][:1000]
    untrained = quantize(lower(trained, SHAPE), images[:100], method="vitis", bits=5)
    before = copy.deepcopy(trained.state_dict())
    losses: list[float] = []
    graph = train_qat(
        trained,
        SHAPE,
        batches_of(images, labels, trained),
        images[:100],
        QatSettings(epochs=4, lr=2e-3, bits=5, alpha=0.5),
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert graph.quantized
    for node in graph:
        if isinstance(node, Conv | Depthwise | Linear):
            stored = np.ldexp(node.weight, node.weight_fix)
            assert np.array_equal(stored, np.round(stored))
            assert -16 <= stored.min() <= stored.max() <= 15
    assert accuracy(graph, digits) > accuracy(untrained, digits) + 0.01


def test_from_scratch(digits: tuple[np.ndarray, np.ndarray]) -> None:
    torch.manual_seed(1)
    images, labels = digits[0][:1000], digits[1][:1000]
    graph = train_qat(Net(), SHAPE, batches_of(images, labels), images[:100], QatSettings(epochs=5, lr=5e-3, trained=False))
    assert accuracy(graph, digits) > 0.85


class Memory:
    """Keeps the last state."""

    def __init__(self) -> None:
        self.state: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None
        self.stop_after: int | None = None

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.state = (epoch, tensors, meta)
        if epoch == self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_training_that_was_cut_off_ends_the_same(
    trained: nn.Module, digits: tuple[np.ndarray, np.ndarray], stop_after: int
) -> None:
    images, labels = digits[0][:300], digits[1][:300]

    def run(memory: Memory) -> Graph:
        return train_qat(
            trained,
            SHAPE,
            batches_of(images, labels),
            images[:50],
            QatSettings(epochs=4, lr=1e-3, stage_lrs=(0.5, 1.0)),
            checkpoints=memory,
        )

    whole, memory = run(Memory()), Memory()
    memory.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        run(memory)
    memory.stop_after = None
    assert same(run(memory), whole)


def test_a_loss_that_is_not_a_number(trained: nn.Module, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits[0][:200], digits[1][:200]
    with pytest.raises((TrainingError, QuantizationError)):
        train_qat(trained, SHAPE, batches_of(images, labels), images, QatSettings(epochs=3, lr=1e30))


def test_feature_maps_are_compared_where_batches_bring_them(
    digits: tuple[np.ndarray, np.ndarray], trained: nn.Module, tmp_path: Path
) -> None:
    """With weight 0 nothing changes, bit for bit; with more it does; and what was cut off goes on to the same bits."""
    images, labels = digits[0][:300], digits[1][:300]
    teacher = FeatureTeacher(
        copy.deepcopy(trained),
        channels=1,
        size=(8, 8),
        teacher_size=None,
        normalisation=Normalisation((0.5,), (0.5,)),
        device="cpu",
    )
    assert [height for _, _, height in teacher.stages] == [8, 4, 2]

    def batches(epoch: int) -> Iterable[QatBatch]:
        for x, y, _ in batches_of(images, labels)(epoch):
            yield QatBatch(x, y, None, teacher(torch.empty(0), x))

    def train(beta: float | None, epochs: int = 3, checkpoints: Any = None) -> dict[str, np.ndarray]:
        hints = None if beta is None else Hints(teacher.stages, beta)
        settings = QatSettings(epochs=epochs, lr=2e-3)
        graph = train_qat(trained, SHAPE, batches, images[:64], settings, hints=hints, checkpoints=checkpoints)
        return {node.name: node.weight for node in graph if getattr(node, "weight", None) is not None}  # type: ignore[union-attr]

    plain, nothing, taught = train(None), train(0.0), train(5.0)
    assert all(np.array_equal(plain[name], nothing[name]) for name in plain)
    assert any(not np.array_equal(plain[name], taught[name]) for name in plain)
    assert not any(module._forward_hooks for module in teacher._teacher.modules())

    class CutOff(Exception):
        pass

    def cut(epoch: int, loss: float) -> None:
        if epoch == 2:
            raise CutOff

    checkpoints = Store(tmp_path).checkpoints("key")
    settings, hints = QatSettings(epochs=3, lr=2e-3), Hints(teacher.stages, 5.0)
    with pytest.raises(CutOff):
        train_qat(trained, SHAPE, batches, images[:64], settings, hints=hints, checkpoints=checkpoints, on_epoch=cut)
    resumed = train(5.0, checkpoints=checkpoints)
    assert all(np.array_equal(taught[name], resumed[name]) for name in taught)
