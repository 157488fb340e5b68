from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import find_board, lower
from edgesearch.errors import LoweringError, SpaceError
from edgesearch.objectives import Estimator, Facts, Pipeline, Recipe
from edgesearch.objectives.pruning._shape import pruned_shape
from edgesearch.objectives.stages._metrics import estimate
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student, build

BOARD = find_board("zcu104")


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


@pytest.mark.parametrize("architecture", ["cnn_small", "resnet20", "mobilenet_v2"])
def test_a_network_that_is_kept_for_its_shapes_alone_is_estimated_as_one_with_weights(
    estimator: Estimator, architecture: str
) -> None:
    student = Student(architecture=architecture, width=0.5, input_size=32)
    for ratio in (0.3, 0.6):
        pruning = Pruning(method="one_step", ratio=ratio, granularity=8)
        model = pruned_shape(build(student, channels=3, classes=10), (3, 32, 32), ratio=ratio, granularity=8)
        expected = estimate(lower(model, (3, 32, 32), target=BOARD.target), BOARD, 8)
        assert estimator.estimate(Candidate(student=student, pruning=pruning)) == expected


def test_a_share_of_the_time_is_another_network_than_a_share_of_the_macs(estimator: Estimator) -> None:
    options = {"method": "one_step", "ratio": 0.5}
    whole, macs, fps = (
        estimator.estimate(candidate(pruning=pruning)) for pruning in ({}, options, options | {"target": "fps"})
    )
    assert macs["macs"] == pytest.approx(0.5 * whole["macs"], rel=0.05)
    assert fps["macs"] != macs["macs"]
    assert fps["latency_ms"] < whole["latency_ms"]


def test_bits_change_the_size_only(estimator: Estimator) -> None:
    eight, five = (estimator.estimate(candidate(quantization=Quantization(bits=bits).model_dump())) for bits in (8, 5))
    assert five["size_bytes"] == pytest.approx(eight["size_bytes"] * 5 / 8, rel=1e-3)
    assert {k: v for k, v in five.items() if k != "size_bytes"} == {k: v for k, v in eight.items() if k != "size_bytes"}


def test_units(estimator: Estimator) -> None:
    figures = estimator.estimate(candidate())
    assert figures["latency_fps"] == pytest.approx(1000 / figures["latency_ms"])
    assert figures["size_bytes"] == figures["parameters"]  # one byte each


def own(folder: Path, body: str, name: str) -> Candidate:
    (folder / f"{name}.py").write_text(f"from torch import nn\ndef net(num_classes):\n    return nn.Sequential({body})\n")
    return Candidate(student=Student(architecture=f"{name}:net", input_size=32))


def test_a_model_the_dpu_cannot_run_is_refused_by_the_name_of_its_layer(tmp_path: Path) -> None:
    softly = own(tmp_path, "nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 900, num_classes)", "softly")
    with pytest.raises(LoweringError, match="SiLU"):
        Estimator(channels=3, classes=10, board=BOARD, folder=tmp_path).estimate(softly)


def test_a_model_that_does_not_tell_the_classes_apart_is_refused(tmp_path: Path) -> None:
    fixed = own(tmp_path, "nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)", "fixed")
    with pytest.raises(SpaceError, match="5 outputs, but the data set 10 classes"):
        Estimator(channels=3, classes=10, board=BOARD, folder=tmp_path).estimate(fixed)


def test_features_of_an_mlp_cannot_be_compared(estimator: Estimator) -> None:
    with pytest.raises(SpaceError, match="logit"):
        estimator.estimate(
            Candidate(student=Student(architecture="mlp", input_size=28), distillation=Distillation(kind="intermediate"))
        )


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from(["cnn_small", "cnn_tiny", "resnet8"]),
    st.sampled_from([0.0, 0.2, 0.5, 0.95]),
    st.sampled_from(["macs", "fps"]),
    st.sampled_from([8, 16]),
    st.sampled_from([5, 8]),
)
def test_an_estimator_that_is_told_the_facts_builds_nothing(
    architecture: str, ratio: float, target: str, granularity: int, bits: int
) -> None:
    pruning = {"method": "one_step", "ratio": ratio, "target": target, "granularity": granularity} if ratio else {}
    asked = Candidate(
        student=Student(architecture=architecture, input_size=16),
        pruning=Pruning.model_validate(pruning),
        quantization=Quantization(bits=bits),
    ).canonical()
    knows, told = (Estimator(channels=3, classes=10, board=BOARD) for _ in range(2))
    facts = knows.facts(asked)
    assert not told.knows(asked)
    told.learn(asked, Facts(**json.loads(json.dumps(facts.to_json()))))
    assert told.knows(asked)
    with patch("edgesearch.objectives.stages._estimate.build", side_effect=AssertionError):
        assert told.estimate(asked) == knows.estimate(asked) == dict(facts.metrics)
        assert told.network_key(asked) == knows.network_key(asked)
        assert told.beyond_reach(asked) == knows.beyond_reach(asked)


def test_a_network_of_one_size_is_refused_where_it_would_be_trained_on_smaller_images() -> None:
    small = Recipe(epochs=3, small_epochs=1)
    mlp, pruned = Student(architecture="mlp", input_size=8), Pruning(method="one_step", ratio=0.3)
    scratch = Quantization(method="qat", start="scratch")

    def estimate_with(pipeline: Pipeline, candidate: Candidate) -> dict[str, float]:
        return Estimator(channels=1, classes=10, board=BOARD, pipeline=pipeline).estimate(candidate)

    complaint = r"mlp: `small_epochs` needs a network that takes images of 6x6 pixels, too, and this one does not \(.*\); leave"
    with pytest.raises(SpaceError, match=complaint):
        estimate_with(Pipeline(train=small), Candidate(student=mlp))
    with pytest.raises(SpaceError, match=complaint):
        estimate_with(Pipeline(finetune=small), Candidate(student=mlp, pruning=pruned))
    with pytest.raises(SpaceError, match=complaint):
        estimate_with(Pipeline(finetune=small), Candidate(student=mlp, pruning=Pruning(method="unstructured", ratio=0.3)))
    itself = Distillation(kind="self")  # its teacher is a student that is trained in floating point
    with pytest.raises(SpaceError, match=complaint):
        estimate_with(Pipeline(train=small), Candidate(student=mlp, quantization=scratch, distillation=itself))
    estimate_with(Pipeline(finetune=small), Candidate(student=mlp))
    estimate_with(Pipeline(train=small), Candidate(student=mlp, quantization=scratch))
    estimate_with(Pipeline(train=small), Candidate(student=Student(architecture="cnn_tiny", input_size=8)))


def test_that_a_network_takes_smaller_images_is_told_by_another_estimator() -> None:
    candidate = Candidate(student=Student(architecture="cnn_tiny", input_size=8))
    pipelines = Pipeline(), Pipeline(train=Recipe(epochs=3, small_epochs=1))
    plain, small, told = (
        Estimator(channels=1, classes=10, board=BOARD, pipeline=pipeline) for pipeline in (*pipelines, pipelines[1])
    )
    told.estimate(candidate.model_copy(update={"quantization": Quantization(method="qat", start="scratch")}))
    assert not told.knows(candidate)  # though it knows the network
    told.learn(candidate, small.facts(candidate))
    plain.learn(candidate, small.facts(candidate))
    assert told.knows(candidate)
    assert plain.knows(candidate)
    with patch("edgesearch.objectives.stages._estimate.build", side_effect=AssertionError):
        assert told.estimate(candidate) == plain.estimate(candidate)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pruning": Pruning(method="one_step", ratio=0.3, backend="vai")}, "optimizer"),
        ({"quantization": Quantization(method="qat", backend="nndct")}, "quantization-aware training"),
    ],
)
def test_batch_norms_that_know_of_their_pools_are_not_given_to_packages_that_do_not(changes: dict[str, Any], what: str) -> None:
    def estimate(network: str) -> dict[str, float]:
        student = Student(architecture=network, input_size=16)
        return Estimator(channels=3, classes=10, board=BOARD).estimate(Candidate(student=student, **changes))

    with pytest.raises(SpaceError, match=f"Vitis AI's {what} does not know batch-norms that go by what a pool passes on"):
        estimate("staged 16 c1x16pn c1x16")
    assert estimate("staged 16 c1x16p c1x16")["fps"] > 0
