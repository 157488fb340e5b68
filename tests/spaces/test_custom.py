"""Networks of the user's own."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgesearch.board_eval import lower
from edgesearch.errors import EdgesearchError, PluginError, SpaceError
from edgesearch.spaces import Candidate, Range, Space, Student, StudentOverride, build, complete, with_declared_parameters

CODE = """
from dataclasses import dataclass
import torch
from torch import nn
class Net(nn.Sequential):
    search_space = {"depth": [1, 2], "rate": {"low": 0.0, "high": 0.5}}
    def __init__(self, num_classes, in_channels=3, depth=1, rate=0.0):
        layers = [nn.Conv2d(in_channels if i == 0 else 4, 4, 3, padding=1) for i in range(depth)]
        super().__init__(*layers, nn.Flatten(), nn.Dropout(rate), nn.Linear(4 * 64, num_classes))
class Wide(Net):
    search_space = None
    def __init__(self, num_classes, width):
        super().__init__(num_classes)
class Staged(nn.Sequential):
    search_space = {
        "stages": {"low": 1, "high": 2, "step": 1},
        "block": ["plain", "wide"],
        "expansion": {"when": {"block": ["wide"]}, "choices": [2, 4]},
        "second": {"when": {"stages": [2], "block": ["wide"]}, "choices": {"low": 8, "high": 16, "step": 8}},
    }
    def __init__(self, num_classes, in_channels, stages, block, expansion=1, second=8):
        layers = [nn.Conv2d(in_channels, 4 * expansion, 3)] + [nn.Conv2d(4 * expansion, second, 3) for _ in range(stages - 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(layers[-1].out_channels, num_classes))
class Wider(Net):
    search_space = {"width": [16, 32]}
    def __init__(self, num_classes, in_channels, width=24, channels=32):
        super().__init__(num_classes, in_channels)
        self.told = (width, channels)
class Base(Net):
    def __init__(self, num_classes, channels=32):
        super().__init__(num_classes, 1)
        self.told = channels
class Other(Net):
    def __init__(self, classes=10, channels=3):
        super().__init__(classes, channels)
class Backwards(Net):
    search_space = {"expansion": {"when": {"block": ["wide"]}, "choices": [2, 4]}, "block": ["plain", "wide"]}
class Unordered(Net):
    search_space = {"block": {"plain", "wide"}}
class Odd(Net):
    search_space = ["depth"]
class Worse(Net):
    search_space = {"depth": []}
class Lazy(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(num_classes))
        self[2].eval()
class Failing(Lazy):
    def forward(self, x):
        raise RuntimeError("too small")
class Leaving(Lazy):
    def forward(self, x):
        raise SystemExit(3)
class Unreached(Lazy):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self[1].spare = nn.LazyLinear(2)
@dataclass(eq=False)
class Identified(nn.Module):
    num_classes: int
    def __post_init__(self):
        super().__init__()
        self.layer = nn.Linear(64, self.num_classes)
    def forward(self, x):
        return self.layer(x.flatten(1))
@dataclass
class Valued(Identified):
    pass
def inside(num_classes):
    return nn.Sequential(nn.Identity(), Valued(num_classes))
class Typed(Net):
    def __init__(self, num_classes, kind):
        super().__init__(num_classes, 1)
        self.to(**{"device": "meta"} if kind == "meta" else {"dtype": getattr(torch, kind)})
class Endless(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, 1)
        self[0].bias.data[1] = float("nan")
class Counting(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, 1)
        self.order = nn.Parameter(torch.tensor([2, 1]), requires_grad=False)
class Saying(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, 1)
    def get_extra_state(self):
        return {"version": 3}
def broken():
    raise RuntimeError("no such thing")
def leaving():
    raise SystemExit(3)
def number():
    return 5
CONSTANT = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "my_networks.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("my_networks", None)


def make(folder: Path, name: str, **settings: Any) -> torch.nn.Module:
    return build(Student(architecture=f"my_networks:{name}", input_size=8, **settings), channels=1, classes=3, folder=folder)


def test_it_is_given_what_it_asks_for(folder: Path) -> None:
    assert make(folder, "Net")(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    convolutions = [m for m in make(folder, "Net", parameters={"depth": 2}).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 2


def test_how_wide_it_is_by_another_meaning_of_a_name_is_its_own_affair(folder: Path) -> None:
    assert make(folder, "Wider").told == (24, 32)
    assert make(folder, "Wider", parameters={"width": 16, "channels": 8}).told == (16, 8)
    assert make(folder, "Base").told == 32
    own = [
        complete(Student(architecture=f"my_networks:{name}", width=0.5), folder=folder) for name in ("Base", "Wider", "Other")
    ]
    assert [student.parameters for student in own] == [{"channels": 32}, {"channels": 32}, {}]  # so that their keys tell
    assert [student.width for student in own] == [1.0, 1.0, 1.0]
    assert make(folder, "Other")(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("broken", SpaceError, "no such thing"),
        ("leaving", SpaceError, "cannot be made: SystemExit: 3"),
        ("number", SpaceError, "int"),
        ("Failing", SpaceError, "lazy layers, whose sizes follow from an image, and fails on one of 1 x 8 x 8: .* too small"),
        ("Leaving", SpaceError, "fails on one of 1 x 8 x 8: SystemExit: 3"),
        ("Unreached", SpaceError, r"never reaches: 1\.spare\.weight, 1\.spare\.bias; remove them"),
        ("Valued", SpaceError, r"its Valued compares by values .*; write @dataclass\(eq=False\)"),
        ("inside", SpaceError, r"its Valued compares by values .*; write @dataclass\(eq=False\)"),
        ("absent", PluginError, "absent"),
        ("CONSTANT", PluginError, "class or a function"),
    ],
)
def test_what_makes_no_network_is_one_sentence(folder: Path, name: str, kind: type[EdgesearchError], words: str) -> None:
    with pytest.raises(kind, match=words):
        make(folder, name)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("Typed", {"kind": "float64"}, "its 0.weight is torch.float64; expected torch.float32"),
        ("Typed", {"kind": "float16"}, "its 0.weight is torch.float16; expected torch.float32"),
        ("Typed", {"kind": "meta"}, "its 0.weight is on torch's `meta` device"),
        ("Endless", {}, "its 0.bias has NaN or infinite values as its class makes it"),
        ("Counting", {}, "its order is torch.int64, which has no gradients; keep constants by register_buffer"),
        ("Saying", {}, r"its state_dict holds _extra_state, a dict \(get_extra_state\); keep what it needs in tensors"),
    ],
)
def test_a_network_that_no_training_could_start_from_is_refused(
    folder: Path, name: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        make(folder, name, parameters=parameters)


def test_values_that_a_file_of_weights_gives_need_not_be_finite_before(folder: Path) -> None:
    assert make(folder, "Endless", weights="w.pth") is not None


def test_lazy_layers_learn_their_sizes_from_an_image_and_nothing_else_changes(folder: Path) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(make(folder, "Lazy"))
    first, second = (model.state_dict() for model in models)
    assert first["0.weight"].shape == (4, 1, 3, 3)
    assert first["4.weight"].shape == (3, 4 * 36)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["1.num_batches_tracked"] == 0
    assert [module.training for module in models[0]] == [True, True, False, True, True]  # type: ignore[union-attr]
    assert lower(models[0].eval(), (1, 8, 8)).output.shape == (3,)


def test_a_dataclass_that_is_compared_by_identity_is_a_network(folder: Path) -> None:
    assert make(folder, "Identified")(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_parameters_that_it_does_not_take_are_one_sentence(folder: Path) -> None:
    with pytest.raises(SpaceError, match="colour"):
        make(folder, "Net", parameters={"colour": 1})


def test_code_that_changed_since_its_fingerprint_was_taken_is_refused(folder: Path) -> None:
    student = complete(Student(architecture="my_networks:Net", input_size=8), folder=folder)
    assert len(student.source_sha256) == 64
    build(student, channels=1, classes=3, folder=folder)
    (folder / "my_networks.py").write_text(CODE + "\n")
    with pytest.raises(PluginError, match="changed while the study ran"):
        build(student, channels=1, classes=3, folder=folder)
    fresh = complete(Student(architecture="my_networks:Net", input_size=8), folder=folder)
    assert fresh.source_sha256 != student.source_sha256


def test_a_width_that_it_does_not_take_makes_no_other_candidate(folder: Path) -> None:
    widths = {name: [complete(Student(architecture=f"my_networks:{name}", width=w), folder=folder).width for w in (0.5, 1.0)]
              for name in ("Net", "Wide", "absent")}  # fmt: skip
    assert widths == {"Net": [1.0, 1.0], "Wide": [0.5, 1.0], "absent": [0.5, 1.0]}


def test_its_own_parameters_are_searched(folder: Path) -> None:
    space = Space(students=("my_networks:Net", "cnn_tiny"))
    declared = with_declared_parameters(space, folder=folder).student["my_networks:Net"].parameters
    assert declared == {"depth": (1, 2), "rate": Range(low=0.0, high=0.5)}
    given = space.model_copy(update={"student": {"my_networks:Net": StudentOverride(parameters={"depth": (3,)})}})
    assert with_declared_parameters(given, folder=folder).student["my_networks:Net"].parameters["depth"] == (3,)
    assert with_declared_parameters(Space(students=("cnn_tiny",)), folder=folder) == Space(students=("cnn_tiny",))


class First:
    """Suggests the first choice or the lower end, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self.asked.append(name)
        return low


def test_a_space_asks_for_them_under_the_networks_name(folder: Path) -> None:
    space = with_declared_parameters(Space(students=("my_networks:Net",)), folder=folder)
    trial = First()
    assert space.suggest(trial).student.parameters == {"depth": 1, "rate": 0.0}
    assert trial.asked == ["Net.depth", "Net.rate"]


class Dice:
    """Suggests at random, and notes what it was asked for."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: set[str] = set()

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.add(name)
        return self.random.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self.asked.add(name)
        return self.random.choice((low, high))


def test_parameters_under_a_condition_exist_where_it_holds(folder: Path) -> None:
    space = with_declared_parameters(Space(students=("my_networks:Staged",), input_size=(8,)), folder=folder)
    found = set()
    for seed in range(60):
        dice = Dice(seed)
        student = space.suggest(dice).student
        given = student.parameters
        assert set(given) == {name.removeprefix("Staged.") for name in dice.asked}
        assert ("expansion" in given) == (given["block"] == "wide")
        assert ("second" in given) == (given["block"] == "wide" and given["stages"] == 2)
        assert type(given["stages"]) is int
        assert build(student, channels=1, classes=3, folder=folder)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
        found.add(Candidate(student=student).key)
    assert len(found) == 2 + 2 + 2 * 2  # plain; wide with one stage; wide with two


def test_what_a_study_gives_for_a_parameter_keeps_its_condition(folder: Path) -> None:
    given = {"my_networks:Staged": StudentOverride.model_validate({"parameters": {"expansion": [8]}})}
    space = with_declared_parameters(Space(students=("my_networks:Staged",), student=given), folder=folder)
    found = {tuple(space.suggest(Dice(seed)).student.parameters.items()) for seed in range(40)}
    assert {dict(parameters).get("expansion") for parameters in found} == {None, 8}
    assert Space.model_validate(space.model_dump(mode="json")) == space


@pytest.mark.parametrize("name", ["Odd", "Worse", "Backwards", "Unordered"])
def test_a_declaration_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(SpaceError, match="search_space of student"):
        with_declared_parameters(Space(students=(f"my_networks:{name}",)), folder=folder)


def test_a_network_may_import_its_neighbours_as_it_is_made_and_as_it_runs(folder: Path) -> None:
    (folder / "late_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        from late_parts import make\n"
        "        self.layers = make(in_channels, num_classes)\n"
        "    def forward(self, x):\n"
        "        from late_shapes import pooled\n"
        "        return self.layers(pooled(x))\n"
    )
    (folder / "late_parts.py").write_text(
        "from torch import nn\n"
        "def make(*sizes): return nn.Sequential(nn.Conv2d(*sizes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    (folder / "late_shapes.py").write_text("from torch.nn import functional as F\ndef pooled(x): return F.max_pool2d(x, 2)\n")
    path = list(sys.path)
    network = build(Student(architecture="late_net:Net", input_size=8), channels=1, classes=3, folder=folder)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert lower(network, (1, 8, 8)).output.shape == (3,)
    assert sys.path == path


def test_a_network_of_torchvision_is_a_student_by_its_import_path() -> None:
    model = build(Student(architecture="torchvision.models:resnet18"), channels=3, classes=7)
    assert model.get_submodule("fc").out_features == 7
