"""Training on the DPU's grid: what it computes is what the integers compute, and it repairs what rounding broke."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network, to_tensor
from edgesearch.board_eval.execution._execute import execute
from edgesearch.board_eval.graph._graph import Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.lowering._trace import lower, lower_with_sources
from edgesearch.errors import NotFinite, QuantizationError, TrainingError
from edgesearch.objectives.data import DataSet, DataSettings, load_data, prepare
from edgesearch.objectives.quantization._best import find_grids
from edgesearch.objectives.quantization._qat import Qat, QatSettings, start, train_qat
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._qat_recipe import QatRecipe
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.training import Recipe, Supervision, find_stages, train
from edgesearch.objectives.training._eager import AdamW
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.spaces import Student, build

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
def data() -> DataSet:
    return load_data(DataSettings(train_images=1000, calibration_images=100))


@pytest.fixture(scope="module")
def few(data: DataSet) -> DataSet:
    return load_data(DataSettings(train_images=300, validation_images=50, calibration_images=64))


@pytest.fixture(scope="module")
def images(data: DataSet) -> np.ndarray:
    """Test images as a network reads them, (N, 8, 8, 1)."""
    return prepare(data.test.images, None, data.normalisation)


@pytest.fixture(scope="module")
def trained(data: DataSet) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    train(model, data, recipe=Recipe(epochs=4, lr=5e-3, augmentation="none"), input_size=None, seed=0, device="cpu")
    return model


def qat(model: nn.Module, data: DataSet, recipe: dict[str, Any] | None = None, **options: Any) -> Qat:
    whole = QatRecipe.model_validate({"epochs": 4, "augmentation": "none", **(recipe or {})})
    return train_qat(model, data, recipe=whole, input_size=None, checkpoint_seconds=0, **options)


def accuracy(graph: Graph, data: DataSet, images: np.ndarray) -> float:
    return float((execute(graph, images).argmax(1) == data.test.labels).mean())


def same(one: Graph, two: Graph) -> bool:
    return all(
        a.fix == b.fix and (not isinstance(a, Conv | Depthwise | Linear) or np.array_equal(a.weight, b.weight))
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("bits", [8, 5])
def test_evaluation_computes_the_integers(trained: nn.Module, images: np.ndarray, bits: int) -> None:
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), bits)
    start(network, images[:100], bits, 0, scale=True)
    with torch.no_grad():
        logits = network.eval()(to_tensor(images)).numpy()
    assert np.array_equal(logits, execute(network.to_graph(), images))


def test_the_second_of_two_batch_norms_trains_as_part_of_the_first(few: DataSet, images: np.ndarray) -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        *norms,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 10),
    )
    train(model, few, recipe=Recipe(epochs=1, augmentation="none"), input_size=None, seed=0, device="cpu")
    network = QatNetwork(model, lower_with_sources(model, SHAPE), 8)
    start(network, images[:64], 8, 0, scale=True)
    with torch.no_grad():
        logits = network.eval()(to_tensor(images)).numpy()
    assert np.array_equal(logits, execute(network.to_graph(), images))
    made = qat(model, few, {"epochs": 1}).graph
    assert sum(isinstance(node, Depthwise) for node in made) == 4
    assert execute(made, images).std() > 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("computed", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_a_hook_computes_are_trained_from_what_it_computes(computed: Any, images: np.ndarray) -> None:
    model = nn.Sequential(computed(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    lowered = lower_with_sources(model, SHAPE)
    network, floats = QatNetwork(model, lowered, 8).to_network(), Network.of(lowered.graph)
    for name, weight in floats.weights.items():
        assert torch.allclose(network.weights[name], weight, rtol=1e-5, atol=1e-7)


def test_scaled_channels_leave_the_float_network_as_it_was(trained: nn.Module, images: np.ndarray) -> None:
    shown = to_tensor(images[:100])
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    before = network.to_network()
    with torch.no_grad():
        network.rescale(find_grids(before, shown, 8, 0).scales)
    after = network.to_network()
    assert any(not torch.allclose(after.weights[name], weight) for name, weight in before.weights.items())
    with torch.no_grad():
        assert torch.allclose(after.logits(shown), before.logits(shown), atol=1e-4)


def test_corrected_biases_are_taken_where_no_batch_norm_finds_its_own(trained: nn.Module, images: np.ndarray) -> None:
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    before = network.to_network().biases
    start(network, images[:100], 8, 0, scale=False)
    changed = {name for name, bias in network.to_network().biases.items() if not torch.allclose(bias, before[name], rtol=1e-3)}
    assert changed == {network.graph.output.name}


def test_every_parameter_trains_even_if_the_model_was_frozen(trained: nn.Module) -> None:
    frozen = copy.deepcopy(trained).requires_grad_(False)
    network = QatNetwork(frozen, lower_with_sources(frozen, SHAPE), 8)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_five_bits_are_repaired_and_stored_in_five_bits(trained: nn.Module, data: DataSet, images: np.ndarray) -> None:
    calibration = prepare(data.calibration.images, None, data.normalisation)
    untrained = quantize(lower(trained, SHAPE), calibration, method="vitis", bits=5)
    before = copy.deepcopy(trained.state_dict())
    losses: list[float] = []
    made = qat(
        trained,
        data,
        {"lr": 2e-3},
        settings=QatSettings(bits=5),
        supervision=Supervision(teacher=copy.deepcopy(trained)),
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert made.graph.quantized
    for node in made.graph:
        if isinstance(node, Conv | Depthwise | Linear):
            stored = np.ldexp(node.weight, node.weight_fix)
            assert np.array_equal(stored, np.round(stored))
            assert -16 <= stored.min() <= stored.max() <= 15
    assert accuracy(made.graph, data, images) > accuracy(untrained, data, images) + 0.01


def test_the_accuracy_of_a_training_is_that_of_the_integers(trained: nn.Module, data: DataSet) -> None:
    made = qat(trained, data, {"epochs": 2, "average_epochs": 1.0}, settings=QatSettings(bits=5))
    logits = execute(made.graph, prepare(data.validation.images, None, data.normalisation))
    assert made.training.accuracy == float((logits.argmax(1) == data.validation.labels).mean())


def test_from_scratch(data: DataSet, images: np.ndarray) -> None:
    torch.manual_seed(1)
    made = qat(Net(), data, {"epochs": 5, "lr": 5e-3}, settings=QatSettings(trained=False))
    assert accuracy(made.graph, data, images) > 0.85


class Memory:
    """Keeps the last state, and every epoch's."""

    def __init__(self) -> None:
        self.saved: dict[int, dict[str, Tensor]] = {}
        self.state: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None
        self.stop_after: int | None = None

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.state, self.saved[epoch] = (epoch, tensors, meta), tensors
        if epoch == self.stop_after:
            raise KeyboardInterrupt

    def clear(self) -> None:
        self.state = None


_RECIPES: dict[str, dict[str, Any]] = {
    "rates": {"stage_lrs": (0.5, 1.0), "augmentation": "shift"},
    "average": {
        "average_epochs": 1.5,
        "augmentation": "cutout",
        "label_smoothing": 0.1,
        "warmup_epochs": 0.5,
        "clip_norm": 1.0,
    },
    "sgd": {"optimizer": "sgd", "schedule": "linear"},
    "muon": {"optimizer": "muon", "stage_lrs": (0.5, 1.0)},
}


@pytest.mark.parametrize(
    ("recipe", "stop_after"), [("rates", 1), ("rates", 4), ("average", 1), ("average", 3), ("sgd", 3), ("muon", 1)]
)
def test_a_training_that_was_cut_off_ends_the_same(trained: nn.Module, few: DataSet, stop_after: int, recipe: str) -> None:
    """Before positions are frozen (behind the third epoch), when they are, and when nothing is left to train."""
    whole, memory = qat(trained, few, _RECIPES[recipe], checkpoints=Memory()), Memory()
    memory.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        qat(trained, few, _RECIPES[recipe], checkpoints=memory)
    memory.stop_after = None
    resumed = qat(trained, few, _RECIPES[recipe], checkpoints=memory)
    assert same(resumed.graph, whole.graph)
    assert [epoch.loss for epoch in resumed.training.history] == [epoch.loss for epoch in whole.training.history]
    assert resumed.training.accuracy == whole.training.accuracy


@pytest.mark.parametrize("saves", [1, 8, 14])
def test_a_training_that_was_cut_off_within_an_epoch_ends_the_same(trained: nn.Module, few: DataSet, saves: int) -> None:
    """In the first epoch, and where positions are frozen."""

    class Cut(Memory):
        left = saves

        def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
            super().save(epoch, tensors, meta)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    whole, memory = qat(trained, few, _RECIPES["average"], checkpoints=Memory()), Cut()
    with pytest.raises(KeyboardInterrupt):
        qat(trained, few, _RECIPES["average"], checkpoints=memory, checkpoint_within=0.0)
    resumed = qat(trained, few, _RECIPES["average"], checkpoints=memory, checkpoint_within=1e9)
    assert same(resumed.graph, whole.graph)
    assert [epoch.loss for epoch in resumed.training.history] == [epoch.loss for epoch in whole.training.history]


@pytest.mark.parametrize("kept", ["another network", "more epochs"])
def test_a_training_that_cannot_go_on_from_what_was_saved_begins_at_the_grids_of_ptq(
    trained: nn.Module, few: DataSet, kept: str
) -> None:
    memory = Memory()
    if kept == "another network":
        qat(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), few, {"epochs": 2}, checkpoints=memory)
    else:
        qat(trained, few, {"epochs": 3}, checkpoints=memory)
    assert memory.state is not None
    assert same(qat(trained, few, {"epochs": 2}, checkpoints=memory).graph, qat(trained, few, {"epochs": 2}).graph)


@pytest.mark.parametrize(
    "changes", [{"average_epochs": 1.0}, {"label_smoothing": 0.2}, {"warmup_epochs": 2.0}, {"clip_norm": 0.1}]
)
def test_the_keys_of_a_recipe_count(trained: nn.Module, few: DataSet, changes: dict[str, Any]) -> None:
    assert not same(qat(trained, few).graph, qat(trained, few, changes).graph)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"small_epochs": 1}, "grids fit one size"),
        ({"mixed_precision": "bf16"}, "bfloat16 rounds"),
        ({"stage_lrs": ()}, "stage_lrs"),
    ],
)
def test_what_does_not_go_with_integers_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QatRecipe.model_validate(wrong)


def test_a_batch_that_memory_does_not_suffice_for_is_computed_in_two(
    trained: nn.Module, few: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = QatNetwork.forward

    def greedy(network: QatNetwork, x: Tensor) -> Tensor:
        if network.training and len(x) > 40:
            raise MemoryError
        return forward(network, x)

    monkeypatch.setattr(QatNetwork, "forward", greedy)
    made = qat(trained, few, {"epochs": 2})
    assert made.training.pieces == 2
    assert made.training.accuracy > 0.5


def test_positions_stay_once_they_are_frozen_and_a_mean_of_weights_begins_anew(trained: nn.Module, few: DataSet) -> None:
    memory = Memory()
    recipe = {"epochs": 6, "lr": 2e-2, "average_epochs": 3.0}
    qat(trained, few, recipe, settings=QatSettings(bits=5), checkpoints=memory)
    names = [name.removeprefix("model/") for name in memory.saved[1] if name.startswith("model/") and "threshold" in name]
    moved = {
        epoch: sum(not torch.equal(memory.saved[epoch][f"model/{n}"], memory.saved[epoch + 1][f"model/{n}"]) for n in names)
        for epoch in (1, 2, 3, 5)
    }
    assert min(moved[epoch] for epoch in (1, 2, 3)) > len(names) // 2
    assert moved[5] == 0
    for epoch, stays in ((4, False), (5, True), (6, True)):
        saved = memory.saved[epoch]
        assert all(torch.equal(saved[f"average/{name}"], saved[f"model/{name}"]) for name in names) == stays


def test_a_loss_that_is_not_a_number(trained: nn.Module, few: DataSet) -> None:
    recipe = QatRecipe(epochs=3, augmentation="none").model_copy(update={"lr": 1e30})  # more than a recipe may ask for
    with pytest.raises((TrainingError, QuantizationError), match=r"not a finite number|a threshold .* became nan in epoch 1"):
        train_qat(trained, few, recipe=recipe, input_size=None)


def test_a_threshold_that_is_not_a_number_is_told_with_epoch_and_loss(
    trained: nn.Module, few: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AdamW.step

    def spoiling(optimizer: AdamW, closure: None = None) -> None:
        step(optimizer, closure)
        next(p for group in optimizer.param_groups for p in group["params"] if not p.ndim).detach().fill_(torch.nan)

    monkeypatch.setattr(AdamW, "step", spoiling)
    with pytest.raises(NotFinite, match=r"threshold .* became nan in epoch 1, behind a loss of \d\.\d+; use a lower `lr`"):
        qat(trained, few, {"epochs": 2})


def test_the_teacher_sees_what_the_network_is_shown(trained: nn.Module, few: DataSet) -> None:
    """Images on the way to both, in order, are the same; and its stages are those of the float network."""
    teacher, seen = copy.deepcopy(trained), []
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    shown: list[Tensor] = []
    forward = QatNetwork.forward

    def watch(network: QatNetwork, x: Tensor) -> Tensor:
        if network.training:
            shown.append(x.clone())
        return forward(network, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QatNetwork, "forward", watch)
        qat(trained, few, {"epochs": 2, "augmentation": "cutout"}, supervision=Supervision(teacher=teacher))
    seen, shown = ([each for each in images if len(each) > max(PROBES)] for images in (seen, shown))  # not foretelling memory
    assert len(seen) == len(shown) == 10
    assert all(torch.equal(one, other) for one, other in zip(seen, shown, strict=True))


def test_feature_maps_are_compared(trained: nn.Module, few: DataSet) -> None:
    """With weight 0 the loss is that of the labels, with more it is greater; what was cut off goes on to the same bits."""
    network = QatNetwork(trained, lower_with_sources(trained, SHAPE), 8)
    sizes = [(channels, height) for _, channels, height in find_stages(network, SHAPE)]
    assert sizes == [(channels, height) for _, channels, height in find_stages(trained, SHAPE)] == [(8, 8), (16, 4), (16, 2)]

    def taught(beta: float, checkpoints: Memory | None = None) -> Qat:
        teacher = copy.deepcopy(trained)
        supervision = Supervision(kind="intermediate", alpha=1.0, beta=beta, teacher=teacher)
        made = qat(trained, few, {"epochs": 3, "lr": 2e-3}, supervision=supervision, checkpoints=checkpoints)
        assert not any(module._forward_hooks for module in teacher.modules())
        return made

    plain, nothing, drawn = qat(trained, few, {"epochs": 3, "lr": 2e-3}), taught(0.0), taught(5.0)
    first = [made.training.history[0].loss for made in (plain, nothing, drawn)]
    assert first[1] == pytest.approx(first[0], rel=1e-2)
    assert first[2] > 1.1 * first[0]
    memory = Memory()
    memory.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        taught(5.0, memory)
    memory.stop_after = None
    assert same(taught(5.0, memory).graph, drawn.graph)
    assert not same(plain.graph, drawn.graph)


def test_plain_steps_keep_what_they_learnt_when_batch_norm_is_frozen(data: DataSet) -> None:
    model = build(Student(architecture="cnn_tiny", width=0.5, input_size=8), channels=1, classes=10)
    train(model, data, recipe=Recipe(epochs=6, batch_size=32, augmentation="none"), input_size=8, seed=0)
    recipe = QatRecipe(epochs=5, lr=0.2, batch_size=32, optimizer="sgd", augmentation="none")
    for seed in range(3):
        assert train_qat(model.eval(), data, recipe=recipe, input_size=8, seed=seed).training.accuracy > 0.9
