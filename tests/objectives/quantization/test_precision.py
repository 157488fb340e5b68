"""What networks answer is computed in full float32, though the process allows TF32: accuracies and positions hang on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network, run_float
from edgesearch.board_eval.graph import Node
from edgesearch.board_eval.lowering import lower
from edgesearch.objectives.data import DataSet, DataSettings, load_data, prepare
from edgesearch.objectives.pruning import re_estimate_batch_norm
from edgesearch.objectives.quantization import QatRecipe, QatSettings, quantize, train_qat
from edgesearch.objectives.training import Recipe, Scorer, evaluate, teacher_logits, train

SHAPE = (1, 8, 8)


def allowed() -> str:
    cudnn: Any = torch.backends.cudnn
    return str(cudnn.conv.fp32_precision)


@pytest.fixture(autouse=True)
def _tf32() -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = True
    yield
    assert allowed() == "tf32"


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(DataSettings(train_images=64, validation_images=32, calibration_images=16))


class Watched(nn.Sequential):
    """Remembers what was allowed whenever it answered, and whether it was trained meanwhile."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4)
        super().__init__(nn.Conv2d(1, 4, 3, 2), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        self.seen: set[tuple[bool, str]] = set()
        self.register_forward_hook(lambda *_: self.seen.add((self.training, allowed())))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What was allowed whenever a float network computed a node."""
    seen: set[str] = set()
    inner = Network.before_activation

    def watch(network: Network, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        seen.add(allowed())
        return inner(network, node, inputs)

    monkeypatch.setattr(Network, "before_activation", watch)
    return seen


def test_answers_are_not_rounded(data: DataSet) -> None:
    model, options = Watched(), {"input_size": None, "normalisation": data.normalisation, "device": "cpu"}
    evaluate(model, data.validation, **options)  # type: ignore[arg-type]
    Scorer(data.validation, **options)(model)  # type: ignore[arg-type]
    teacher_logits(model, data, input_size=None, augmentation="none", device="cpu")
    re_estimate_batch_norm(model, torch.randn(8, *SHAPE))
    assert model.seen == {(False, "none")}


def test_training_may_be_fast_and_its_validation_is_exact(data: DataSet) -> None:
    model = Watched()
    train(model, data, recipe=Recipe(epochs=1, mixed_precision="off"), input_size=None, seed=0, device="cpu", select="best")
    assert {precision for training, precision in model.seen if training} == {"tf32"}
    assert (False, "none") in model.seen


@pytest.mark.parametrize("method", ["best", "vitis", "per_channel"])
def test_quantizers_see_exact_values(data: DataSet, computed: set[str], method: str) -> None:
    quantize(lower(Watched().eval(), SHAPE), prepare(data.calibration.images, None, data.normalisation), method=method)
    assert computed == {"none"}


@pytest.mark.parametrize("trained", [True, False])
def test_qat_starts_from_exact_values(data: DataSet, computed: set[str], trained: bool) -> None:
    recipe, settings = QatRecipe(epochs=1), QatSettings(trained=trained)
    train_qat(Watched(), data, recipe=recipe, input_size=None, settings=settings)
    assert computed == {"none"}


def test_the_float_reference_is_exact(computed: set[str]) -> None:
    run_float(lower(Watched().eval(), SHAPE), np.zeros((1, 8, 8, 1), np.float32))
    assert computed == {"none"}
