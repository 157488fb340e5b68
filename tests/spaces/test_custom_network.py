"""A network of the user's own is made with what its class or function takes, and whatever that raises is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build

HANDING_ON = """
import torch
from torch import nn
class Net(nn.Linear):
    def __init__(self, num_classes=10):
        super().__init__(4, num_classes)
def handed(*, progress=True, **rest):
    return Net(**rest)
def refusing(**rest):
    torch.rand(3)
    return nn.Linear(4, 10, **rest)
"""


def test_a_factory_that_hands_on_its_arguments_is_told_the_classes_where_it_takes_them(tmp_path: Path) -> None:
    (tmp_path / "handing_on.py").write_text(HANDING_ON)
    handed = build(Student(architecture="handing_on:handed"), channels=1, classes=7, folder=tmp_path)
    assert handed.get_parameter("weight").shape == (7, 4)
    torch.manual_seed(3)
    refusing = build(Student(architecture="handing_on:refusing"), channels=1, classes=7, folder=tmp_path)
    torch.manual_seed(3)
    torch.rand(3)
    assert torch.equal(refusing.get_parameter("weight"), torch.nn.Linear(4, 10).weight)  # as if it had been asked once


CLASSES_THAT_HAND_ON = """
from torch import nn
class Base(nn.Module):
    def __init__(self, in_channels=1, num_classes=10, width=1.0):
        super().__init__()
        self.head = nn.Linear(int(16 * width), num_classes)
        self.stem = nn.Conv2d(in_channels, int(16 * width), 3)
class Strict(Base):
    def __init__(self, in_channels, num_classes, width):
        super().__init__(in_channels, num_classes, width)
class Handing(Base):
    def __init__(self, **rest):
        super().__init__(**rest)
class Twice(Strict):
    def __init__(self, *args, depth=1, **rest):
        super().__init__(*args, **rest)
class Inheriting(Twice):
    pass
class Narrow(Base):
    def __init__(self, **rest):
        super().__init__(width=0.25, **rest)
def function(**rest):
    return Twice(**rest)
"""


@pytest.mark.parametrize("name", ["Base", "Strict", "Handing", "Twice", "Inheriting", "function"])
def test_what_hands_on_its_arguments_is_given_what_is_taken_behind_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "classes_that_hand_on.py").write_text(CLASSES_THAT_HAND_ON)
    student = Student(architecture=f"classes_that_hand_on:{name}", width=0.5)
    model = build(student, channels=3, classes=7, folder=tmp_path)
    assert model.get_parameter("stem.weight").shape == (8, 3, 3, 3)
    assert model.get_parameter("head.weight").shape == (7, 8)


def test_what_a_class_raises_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "talkative.py").write_text("def make(num_classes):\n    raise ValueError('bad\\n   news ' + 'x' * 1000)\n")
    with pytest.raises(SpaceError, match=r"cannot be made: ValueError: bad news x{490,} \.\.\.$") as caught:
        build(Student(architecture="talkative:make"), channels=1, classes=3, folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_settled_by_the_class_itself_stays_so(tmp_path: Path) -> None:
    (tmp_path / "classes_that_hand_on.py").write_text(CLASSES_THAT_HAND_ON)
    model = build(Student(architecture="classes_that_hand_on:Narrow", width=0.5), channels=3, classes=7, folder=tmp_path)
    assert model.get_parameter("stem.weight").shape == (4, 3, 3, 3)


OF_THEIR_OWN = """
from torch import nn
class Base(nn.Module):
    def __init__(self, num_classes=10, in_channels=3, width=16):
        super().__init__()
        self.stem, self.head = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)
class Wide(Base):
    def __init__(self, **rest):
        super().__init__(**rest)
class Strict(Base):
    def __init__(self, num_classes, **options):
        unknown = set(options) - {"depth"}
        if unknown:
            raise ValueError(f"unknown {unknown}")
        super().__init__(num_classes)
class Failing(Base):
    def __init__(self, **rest):
        raise ValueError("always")
"""


@pytest.mark.parametrize("name", ["Wide", "Strict"])
def test_a_whole_network_is_what_its_class_makes_by_itself(name: str, tmp_path: Path) -> None:
    """Whatever it means by a width."""
    (tmp_path / "of_their_own.py").write_text(OF_THEIR_OWN)
    model = build(Student(architecture=f"of_their_own:{name}"), channels=3, classes=7, folder=tmp_path)
    assert model.get_parameter("stem.weight").shape == (16, 3, 3, 3)
    assert model.get_parameter("head.weight").shape == (7, 16)


def test_what_fails_whatever_it_is_given_fails(tmp_path: Path) -> None:
    (tmp_path / "of_their_own.py").write_text(OF_THEIR_OWN)
    with pytest.raises(SpaceError, match="cannot be made: ValueError: always"):
        build(Student(architecture="of_their_own:Failing", width=0.5), channels=3, classes=7, folder=tmp_path)
