from __future__ import annotations

import pytest
from torch import nn

from edgesearch.board_eval import load_profile
from edgesearch.errors import LoweringError, SpaceError
from edgesearch.objectives import Estimator
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

BOARD = load_profile("zcu104")


@pytest.fixture
def estimator() -> Estimator:
    return Estimator(channels=3, classes=10, board=BOARD)


def candidate(**change: object) -> Candidate:
    student = Student(architecture="resnet18", width=0.5, input_size=32)
    return Candidate.model_validate({"student": student.model_dump(), **change})


def test_more_pruning_is_smaller_and_faster(estimator: Estimator) -> None:
    ratios = (0.0, 0.3, 0.6, 0.9)
    found = [estimator.estimate(candidate(pruning=Pruning(method="one_step", ratio=r).model_dump())) for r in ratios]
    assert [f["macs"] for f in found] == sorted((f["macs"] for f in found), reverse=True)
    assert [f["fps"] for f in found] == sorted(f["fps"] for f in found)
    for ratio, figures in zip(ratios, found, strict=True):
        assert figures["macs"] == pytest.approx(found[0]["macs"] * (1 - ratio), rel=0.05)


def test_bits_change_the_size_only(estimator: Estimator) -> None:
    eight, five = (estimator.estimate(candidate(quantization=Quantization(bits=bits).model_dump())) for bits in (8, 5))
    assert five["size_bytes"] == pytest.approx(eight["size_bytes"] * 5 / 8, rel=1e-3)
    assert {k: v for k, v in five.items() if k != "size_bytes"} == {k: v for k, v in eight.items() if k != "size_bytes"}


def test_units(estimator: Estimator) -> None:
    figures = estimator.estimate(candidate())
    assert figures["latency_fps"] == pytest.approx(1000 / figures["latency_ms"])
    assert figures["size_bytes"] == figures["parameters"]  # one byte each


def test_a_model_the_dpu_cannot_run_is_refused_by_the_name_of_its_layer(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Softly(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 900, 10))

    monkeypatch.setattr("edgesearch.spaces._architectures._build_custom", lambda *_: Softly())
    with pytest.raises(LoweringError, match="SiLU"):
        estimator.estimate(Candidate(student=Student(architecture="somebody:Softly", input_size=32)))


def test_features_of_an_mlp_cannot_be_compared(estimator: Estimator) -> None:
    with pytest.raises(SpaceError, match="logit"):
        estimator.estimate(
            Candidate(student=Student(architecture="mlp", input_size=28), distillation=Distillation(kind="intermediate"))
        )
