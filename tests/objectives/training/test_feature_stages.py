"""Feature maps are the last values of each resolution: whole blocks, and nothing of the step that leaves it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesearch.objectives.training._feature_stages import find_stages
from edgesearch.objectives.training._features import Features
from edgesearch.spaces import Student, build

SHAPE = (3, 32, 32)


def conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after), nn.ReLU())


def head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


def names(model: nn.Module) -> list[str]:
    return [name for name, _, _ in find_stages(model, SHAPE)]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("resnet18", [("layer1", 16, 32), ("layer2", 32, 16), ("layer3", 64, 8), ("layer4", 128, 4)]),
        ("resnet50", [("layer1", 64, 32), ("layer2", 128, 16), ("layer3", 256, 8), ("layer4", 512, 4)]),
        ("mobilenet_v2", [("features.3", 8, 32), ("features.6", 8, 16), ("features.13", 24, 8), ("features", 1280, 4)]),
        ("squeezenet1_0", [("features.5", 64, 32), ("features.10", 128, 16), ("features", 128, 8)]),
        ("resnet20", [("layer1", 8, 32), ("layer2", 8, 16), ("layer3", 16, 8)]),
        ("cnn_small", [("features.5", 8, 32), ("features.12", 16, 16), ("features", 32, 8)]),
        ("vgg_small", [("stages.0.0.2", 16, 32), ("stages.1.0.2", 64, 16), ("stages.2.0.2", 64, 8), ("stages", 64, 4)]),
        ("resnet8", [("stages.0", 8, 32), ("stages.1", 8, 16), ("stages", 16, 8)]),
        ("mobile_small", [("stages.0", 8, 32), ("stages.1", 16, 16), ("stages.2", 24, 8), ("stages", 40, 4)]),
    ],
)
def test_stages_are_whole_ones(architecture: str, expected: list[tuple[str, int, int]]) -> None:
    model = build(Student(architecture=architecture, width=0.25, input_size=32), channels=3, classes=10)
    assert find_stages(model, SHAPE) == expected
    check_tapped(model)


def check_tapped(model: nn.Module) -> None:
    """What is taken from the modules has the shape that they were found for."""
    found = find_stages(model, SHAPE)
    features = Features(model, [name for name, _, _ in found])
    with torch.no_grad():
        model.eval()(torch.zeros(1, *SHAPE))
    assert [tuple(taken.shape[1:3]) for taken in features.taken()] == [(channels, height) for _, channels, height in found]


@pytest.mark.parametrize("block", ["c", "r", "b", "i", "f"])
def test_stages_of_the_staged_family_are_its_own(block: str) -> None:
    model = build(Student(architecture=f"staged 8 {block}2x16 {block}2x24/2 {block}1x32/2"), channels=3, classes=10)
    assert find_stages(model, SHAPE) == [("stages.0", 16, 32), ("stages.1", 24, 16), ("stages", 32, 8)]
    check_tapped(model)


def test_stages_of_a_plain_chain_are_its_last_layers() -> None:
    layers = [*conv(3, 4), *conv(4, 8, 3, 2), *conv(8, 8, 3, 2)]
    assert find_stages(nn.Sequential(*layers, *head(8)), SHAPE) == [("2", 4, 32), ("5", 8, 16), ("8", 8, 8)]


def test_a_module_that_is_called_again_at_another_size_gives_no_maps_of_the_first() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU()
            self.end = nn.Sequential(*head(8))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.end(self.relu(self.two(self.relu(self.one(x)))))
            return logits

    model = Reused()
    assert find_stages(model, SHAPE) == [("one", 4, 32), ("relu", 8, 16)]
    check_tapped(model)


class Block(nn.Module):
    """x through `body`, joined with x through `beside`."""

    def __init__(self, body: nn.Module, beside: nn.Module | None, join: Any = torch.add) -> None:
        super().__init__()
        self.body, self.beside, self.join = body, beside, join

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.join(self.body(x), x if self.beside is None else self.beside(x))
        return joined


def joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other], 1)


def test_what_a_block_adds_or_joins_is_part_of_its_maps() -> None:
    model = nn.Sequential(
        conv(3, 8), Block(conv(8, 8), None), conv(8, 8, 3, 2), Block(conv(8, 8), conv(8, 4), joined), *head(12)
    )
    assert find_stages(model, SHAPE) == [("1", 8, 32), ("3", 12, 16)]
    features = Features(model, ["1"])
    with torch.no_grad():
        model.eval()(images := torch.randn(1, *SHAPE))
        stem = model[0](images)
        assert torch.equal(features.taken()[0], stem + model[1].body(stem))


@pytest.mark.parametrize(
    "step",
    [
        nn.Sequential(conv(8, 24, 1), conv(24, 16, 3, 2), conv(16, 16, 1)),
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.AvgPool2d(2)),
        Block(nn.Sequential(conv(8, 16), conv(16, 16, 3, 2)), conv(8, 16, 1, 2)),
        Block(nn.Sequential(conv(8, 12, 1), conv(12, 12), conv(12, 8, 3, 2)), nn.Sequential(nn.MaxPool2d(2)), joined),
    ],
    ids=["inverted", "transition", "late stride", "grid reduction"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_a_step_to_a_smaller_size_computes_first_is_not_the_last_of_the_larger(step: nn.Module, nested: bool) -> None:
    blocks = [conv(3, 8), step, conv(16, 16)]
    model = nn.Sequential(nn.Sequential(blocks[0], nn.Sequential(*blocks[1:])) if nested else nn.Sequential(*blocks), *head(16))
    assert names(model) == ["0.0", "0"]


def test_convolutions_that_look_around_in_front_of_a_pool_are_no_step() -> None:
    model = nn.Sequential(conv(3, 8), nn.Sequential(*conv(8, 16), nn.MaxPool2d(2)), conv(16, 16), *head(16))
    assert find_stages(model, SHAPE) == [("1.2", 16, 32), ("2", 16, 16)]
