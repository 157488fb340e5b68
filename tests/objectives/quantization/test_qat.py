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
from edgesearch.objectives.data import DataSet, prepare
from edgesearch.objectives.quantization._best import find_grids
from edgesearch.objectives.quantization._qat import QatSettings, start, train_qat
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._qat_recipe import QatRecipe
from edgesearch.objectives.quantization._quantize import quantize
from edgesearch.objectives.training import Recipe, Supervision, train
from edgesearch.objectives.training._eager import AdamW
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.spaces import Student, build

from ._qat import SHAPE, Net, qat, same


@pytest.fixture(scope="module")
def images(data: DataSet) -> np.ndarray:
    """Test images as a network reads them, (N, 8, 8, 1)."""
    return prepare(data.test.images, None, data.normalisation)


def accuracy(graph: Graph, data: DataSet, images: np.ndarray) -> float:
    return float((execute(graph, images).argmax(1) == data.test.labels).mean())


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


def test_plain_steps_keep_what_they_learnt_when_batch_norm_is_frozen(data: DataSet) -> None:
    model = build(Student(architecture="cnn_tiny", width=0.5, input_size=8), channels=1, classes=10)
    train(model, data, recipe=Recipe(epochs=6, batch_size=32, augmentation="none"), input_size=8, seed=0)
    recipe = QatRecipe(epochs=5, lr=0.2, batch_size=32, optimizer="sgd", augmentation="none")
    for seed in range(3):
        assert train_qat(model.eval(), data, recipe=recipe, input_size=8, seed=seed).training.accuracy > 0.9
