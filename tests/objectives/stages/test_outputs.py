"""Networks that do not give one value per class are refused before they are trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives import check_outputs
from edgesearch.objectives.stages._outputs import check_is_its_state
from edgesearch.spaces import Student

STUDENT = Student(architecture="mine:Net", input_size=8)
BODY = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2, 3)), x


class Auxiliary(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Afraid(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no training")
        return super().forward(x)


class Leaving(nn.Sequential):
    def __init__(self, *layers: nn.Module, trains: bool) -> None:
        super().__init__(*layers)
        self.trains = trains

    def forward(self, x: Tensor) -> Tensor:
        if self.training is self.trains:
            raise SystemExit(3)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(*BODY, nn.Flatten(), nn.Linear(4, 5)), ["5 outputs", "10 classes", "num_classes"]),
        (nn.Sequential(*BODY, nn.Conv2d(4, 10, 1)), ["10 x 1 x 1", "10 classes"]),
        (nn.Sequential(*BODY, nn.Flatten(), nn.Linear(7, 10)), ["fails on an image of 1 x 8 x 8", "RuntimeError"]),
        (Two(), ["outputs of shape none"]),
        (Auxiliary(*BODY, nn.Flatten(), nn.Linear(4, 10)), ["returns a tuple while it is trained", "aux_logits=False"]),
        (Leaving(trains=False), ["fails on an image", "SystemExit: 3"]),
        (Leaving(*BODY, nn.Flatten(), nn.Linear(4, 10), trains=True), ["fails in training", "SystemExit: 3"]),
        (Afraid(*BODY, nn.Flatten(), nn.Linear(4, 10)), ["fails in training", "no training"]),
    ],
)
def test_it_is_one_sentence(model: nn.Module, words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        check_outputs(model, STUDENT, channels=1, classes=10)
    assert all(word in str(caught.value) for word in ["mine:Net", *words]), str(caught.value)


def test_the_network_and_the_random_numbers_are_left_alone() -> None:
    model = nn.Sequential(*BODY, nn.Flatten(), nn.Dropout(), nn.Linear(4, 10)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_outputs(model, STUDENT, channels=1, classes=10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not model[1].training
    assert torch.equal(state, torch.get_rng_state())


class Wired(nn.Module):
    """Draws which of its layers comes first."""

    def __init__(self, draw: Callable[[], bool]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()])
        self.order = [0, 1] if draw() else [1, 0]
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for place in self.order:
            x = self.layers[place](x)
        return torch.as_tensor(self.fc(x.flatten(1)))


class Projected(nn.Module):
    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(64, 10), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.as_tensor(self.projection)


class NotANumber(nn.Module):
    """Its training tells that, and where."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.fc(x.flatten(1)) * math.nan)


@pytest.mark.parametrize(
    ("make", "is_its_state"),
    [
        (lambda: Wired(lambda: random.random() < 0.5), False),
        (lambda: Wired(lambda: np.random.rand() < 0.5), False),
        (lambda: Wired(lambda: bool(torch.rand(1) < 0.5)), False),
        (lambda: Wired(lambda: random.Random(7).random() < 0.5), True),
        (lambda: Projected(persistent=False), False),
        (lambda: Projected(persistent=True), True),
        (NotANumber, True),
        (lambda: nn.Sequential(*BODY, nn.Flatten(), nn.Dropout(), nn.Linear(4, 10)), True),
    ],
)
def test_what_a_class_draws_is_in_its_state_or_refused(make: Callable[[], nn.Module], is_its_state: bool) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    if is_its_state:
        check_is_its_state(make, STUDENT, channels=1)
    else:
        with pytest.raises(SpaceError, match=r"mine:Net.* is not the same when it is made again .*a seed of its own"):
            check_is_its_state(make, STUDENT, channels=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_equal(np.random.get_state(), states[2])
