"""Which candidates are one network, however it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from edgesearch.board_eval import find_board, lower
from edgesearch.objectives import Estimator
from edgesearch.objectives.stages._structure import network_key, structure
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student, build, complete_candidate

CODE = """
from torch import nn
def net(num_classes, width, rate=0.0, inside=0):
    wide = 8 * {WIDE}
    layers = [nn.Conv2d(3, wide, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(wide, num_classes))
def ignores(num_classes, width, rate=0.0):
    return net(num_classes, 1, rate)
def dropped(num_classes, width):
    return net(num_classes, 1, 0.1 * width)
"""


@pytest.fixture
def estimator(tmp_path: Path) -> Estimator:
    (tmp_path / "sized.py").write_text(CODE.replace("{WIDE}", "int(2 * width)"))
    return Estimator(channels=3, classes=10, board=find_board("zcu104"), folder=tmp_path)


def key(estimator: Estimator, architecture: str, *, folder: Path, width: float = 1.0, **more: object) -> str:
    student = Student.model_validate({"architecture": architecture, "width": width, "input_size": 16, **more})
    return estimator.network_key(complete_candidate(Candidate(student=student), folder=folder))


def test_a_width_that_is_ignored_makes_no_other_network(estimator: Estimator, tmp_path: Path) -> None:
    def keys(name: str, *widths: float) -> int:
        return len({key(estimator, f"sized:{name}", width=width, folder=tmp_path) for width in widths})

    assert keys("ignores", 0.5, 1.0, 2.0) == 1
    assert keys("net", 0.5, 1.0, 2.0) == 3
    assert keys("net", 1.0, 1.2) == 1  # rounds to the same channels
    assert keys("dropped", 0.5, 1.0) == 2  # its training is another


def test_keys_that_studies_have_stay_and_groups_and_orders_of_channels_are_in_them() -> None:
    model = build(Student(architecture="mlp", input_size=32), channels=3, classes=10)
    assert structure(model, lower(model, (3, 32, 32))) == "8445d4e22e671b34ef2970a0a3cbfb9e568b8f71d8a13023c466522aef5b4482"
    found = set()
    for groups in (2, 4):
        plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        shuffled = lower(nn.Sequential(*plain, nn.ChannelShuffle(groups), nn.Conv2d(8, 8, 1)), (3, 8, 8))
        parted = lower(nn.Sequential(*plain, nn.Conv2d(8, 8, 1, groups=groups)), (3, 8, 8))
        found |= {structure(plain, shuffled), structure(plain, parted)}
    assert len(found) == 4


def test_parameters_of_a_class_may_mean_what_no_layer_shows(estimator: Estimator, tmp_path: Path) -> None:
    keys = {key(estimator, "sized:net", folder=tmp_path, parameters={"inside": inside}) for inside in (0, 1)}
    assert len(keys) == 2


def test_students_of_this_project_are_compared_whatever_they_are_called(estimator: Estimator, tmp_path: Path) -> None:
    def of(architecture: str, **more: object) -> str:
        return key(estimator, architecture, folder=tmp_path, **more)

    assert of("cnn_tiny", width=0.5) == of("cnn_tiny", width=0.55)
    assert of("cnn_tiny", width=0.5) != of("cnn_tiny", width=1.0)
    assert of("staged 16 c1x16 c1x16 c1x32/2") == of("staged 16 c2x16 c1x32/2")  # one stage told as two
    assert of("staged 16 c1x16 c1x32p") != of("staged 16 c1x16 c1x32/2")
    assert of("staged 16 c1x16 c1x32p") != of("staged 16 c1x16 c1x32pn")  # the same operations, trained otherwise
    assert of("staged 16 c1x16p c1x16pn") != of("staged 16 c1x16pn c1x16p")
    file = {"weights": "a.npz", "weights_sha256": "1" * 64}
    assert of("cnn_tiny") != of("cnn_tiny", **file)
    # The tensors of a file have names, which two ways to make one network may give to other layers.
    assert of("staged 16 c1x16 c1x16 c1x32/2", **file) != of("staged 16 c2x16 c1x32/2", **file)


def test_the_rest_of_a_candidate_counts(estimator: Estimator) -> None:
    student = Student(architecture="cnn_tiny", input_size=16)
    candidates = [
        Candidate(student=student),
        Candidate(student=student, quantization=Quantization(method="qat")),
        Candidate(student=student, distillation=Distillation(kind="self")),
        Candidate(student=student.model_copy(update={"input_size": 32})),
    ]
    assert len({estimator.network_key(candidate) for candidate in candidates}) == 4


@pytest.mark.parametrize("method", ["one_step", "iterative"])
def test_ratios_beyond_reach_are_one_network(estimator: Estimator, method: str) -> None:
    def of(ratio: float, **more: object) -> Candidate:
        pruning = {"method": method, "ratio": ratio} | more
        return Candidate.model_validate({"student": {"architecture": "resnet8"}, "pruning": pruning})

    beyond = [of(ratio) for ratio in (0.5, 0.6, 0.8, 0.9)]  # narrower than 16 channels no layer gets
    assert len({estimator.network_key(candidate) for candidate in beyond}) == 1
    assert len({estimator.estimate(candidate)["macs"] for candidate in beyond}) == 1
    whole = estimator.estimate(Candidate(student=Student(architecture="resnet8")))["macs"]
    assert estimator.beyond_reach(beyond[0]) == pytest.approx(1 - estimator.estimate(beyond[0])["macs"] / whole)
    within = [of(0.2), of(0.4), of(0.5, granularity=4), of(0.8, granularity=4), of(0.5, backend="vai"), of(0.8, backend="vai")]
    assert [estimator.beyond_reach(candidate) for candidate in within] == [None] * 6
    assert len({estimator.network_key(candidate) for candidate in [*within, beyond[0]]}) == 7


def test_the_key_of_a_network_whose_ratio_can_be_met_is_that_of_its_settings(estimator: Estimator) -> None:
    """Studies hold keys of earlier versions."""
    candidate = Candidate(student=Student(architecture="resnet8"), pruning=Pruning(method="one_step", ratio=0.3))
    plain = Candidate(student=candidate.student)
    built = build(candidate.student, channels=3, classes=10)
    of_student = structure(built, lower(built, (3, 32, 32), target=find_board("zcu104").target))
    assert estimator.network_key(candidate) == network_key(candidate, of_student)
    assert estimator.network_key(plain) == network_key(plain, of_student)


def test_a_share_of_the_time_has_a_reach_of_its_own(estimator: Estimator) -> None:
    def of(ratio: float) -> Candidate:
        pruning = {"method": "one_step", "ratio": ratio, "target": "fps"}
        return Candidate.model_validate({"student": {"architecture": "resnet8"}, "pruning": pruning})

    reach = estimator.beyond_reach(of(0.95))
    assert reach is not None
    assert reach != estimator.beyond_reach(of(0.95).model_copy(update={"pruning": Pruning(method="one_step", ratio=0.95)}))
    assert estimator.beyond_reach(of(reach - 0.001)) is None
    assert (
        estimator.network_key(of(reach + 0.001)) == estimator.network_key(of(0.9)) != estimator.network_key(of(reach - 0.001))
    )
    assert estimator.estimate(of(reach + 0.001)) == estimator.estimate(of(0.9))
