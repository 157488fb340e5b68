"""The contract of a network of the user's own holds for one that keeps it, and tells what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.errors import LoweringError, SpaceError
from edgesearch.testing import StudentContract

OWN = """
import torch
from torch import nn


class Net(nn.Module):
    search_space = {"width": [8, 16], "blocks": {"low": 1, "high": 2, "step": 1}}

    def __init__(self, num_classes, in_channels, width, blocks):
        super().__init__()
        layers = []
        for block in range(blocks):
            layers += [nn.Conv2d(in_channels if block == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.body(x))


class Plain(Net):
    search_space = {}

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels, 8, 1)


class Skipping(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.more = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x):
        return super().forward(self.more(x) if torch.rand(()) < 0.5 or not self.training else x)


class TenOutputs(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(10, in_channels)


class OtherWidths(Net):
    search_space = {}

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels, int(torch.randint(2, 40, ())), 1)


class Unseeded(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(torch.seed() % 2**31))


class Rewired(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.order = torch.randperm(16)

    def forward(self, x):
        return self.head(self.body(x)[:, self.order])


class OfItsBatch(Plain):
    def forward(self, x):
        return super().forward(x) - super().forward(x).mean(0)


class Idle(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.forgotten = nn.Linear(3, 3)


class Sine(Plain):
    def forward(self, x):
        return self.head(torch.sin(self.body(x)))


class Fixed(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(in_channels, num_classes)
"""


class TestOwnNetwork(StudentContract):
    """A class with parameters of its own."""

    architecture = "contract_nets:Net"
    input_size = 12

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        (tmp_path / "contract_nets.py").write_text(OWN)
        self.folder = tmp_path

    def test_networks_of_its_search_space_are_asked_too(self) -> None:
        drawn = [student.parameters for student in self.students()]
        assert {parameters["width"] for parameters in drawn} == {8, 16}
        assert {parameters["blocks"] for parameters in drawn} == {1, 2}


class TestNetworkOfChance(TestOwnNetwork):
    """One whose layers are left out at random while it is trained."""

    architecture = "contract_nets:Skipping"

    def test_networks_of_its_search_space_are_asked_too(self) -> None:
        assert [student.parameters for student in self.students()] == [{}]


class TestBundledNetwork(StudentContract):
    """One that edgesearch knows by name keeps the same contract."""

    architecture = "resnet8"


@pytest.mark.parametrize(
    ("name", "test", "words"),
    [
        ("TenOutputs", "test_it_gives_a_value_per_class_whatever_their_number", "has 10 outputs, but the data set 13 classes"),
        ("Unseeded", "test_the_same_random_numbers_start_the_same_network", "Unseeded"),
        ("Rewired", "test_it_is_made_again_from_its_weights", "draws something at random"),
        ("OtherWidths", "test_it_is_made_again_from_its_weights", "size mismatch"),
        ("OfItsBatch", "test_an_image_has_the_same_answer_alone_and_among_others", "not close"),
        ("Idle", "test_every_parameter_learns", "forgotten.weight of .* has no effect on the loss"),
        ("Sine", "test_the_dpu_runs_it", "sin"),
        ("Fixed", "test_a_pruned_one_is_made_again_from_its_weights", "prune"),
    ],
)
def test_what_a_network_does_not_keep_is_told(tmp_path: Path, name: str, test: str, words: str) -> None:
    (tmp_path / "contract_nets.py").write_text(OWN)
    contract = StudentContract()
    contract.architecture, contract.folder, contract.input_size = f"contract_nets:{name}", tmp_path, 12
    with pytest.raises((AssertionError, SpaceError, LoweringError, RuntimeError), match=words):
        getattr(contract, test)()
