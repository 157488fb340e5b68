from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgesearch.board_eval.boards._preflight import Finding, preflight
from edgesearch.board_eval.graph._graph import Add, Conv, Graph, Input, Reshape, without_weights
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.targets import DPUS


def about(findings: list[Finding], words: str) -> list[Finding]:
    return [finding for finding in findings if words in finding.message]


def test_relu6_that_vitis_would_replace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.Conv2d(16, 16, 3), nn.ReLU6(), nn.Conv2d(16, 16, 3), nn.ReLU())
    (finding,) = about(preflight(lower(model, (3, 16, 16))), "ReLU6")
    assert finding.severity == "warning"
    assert finding.message.startswith("2 ReLU6 (0, 2)")


@pytest.mark.parametrize(("a", "b", "expected"), [(5, 5, 0), (5, 3, 0), (3, 6, 1), (-2, 1, 1)])
def test_adds_whose_positions_are_far_apart(a: int, b: int, expected: int) -> None:
    conv = Conv(name="c", inputs=("in",), shape=(4, 4, 16), kernel=(1, 1), has_bias=False, fix=b)
    nodes = (
        Input(name="in", inputs=(), shape=(4, 4, 16), fix=a),
        conv,
        Add(name="sum", inputs=("in", "c"), shape=(4, 4, 16), fix=3),
    )
    findings = about(preflight(Graph("G", nodes)), "guard bits")
    assert [finding.layer for finding in findings] == ["sum"] * expected


def test_positions_are_found_behind_a_reshape() -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(1, 1, 16), fix=7),
        Reshape(name="r", inputs=("in",), shape=(16,)),
        Reshape(name="q", inputs=("in",), shape=(16,)),
        Add(name="sum", inputs=("r", "q"), shape=(16,), fix=3),
    )
    assert about(preflight(Graph("G", nodes)), "guard bits") == []


def test_channels_that_are_no_multiple_of_16() -> None:
    model = nn.Sequential(nn.Conv2d(3, 17, 3), nn.Conv2d(17, 32, 3), nn.Conv2d(32, 8, 3), nn.Flatten(), nn.Linear(800, 10))
    (finding,) = about(preflight(without_weights(lower(model, (3, 16, 16)))), "multiple of 16")
    assert finding.severity == "note"
    assert "2 layers" in finding.message
    assert "0 17, 2 8" in finding.message
    found = preflight(lower(model, (3, 16, 16)), target=DPUS["B512"])
    (finding,) = about(found, "multiple of 8")
    assert finding.message.startswith("1 layer has channels")
    assert "0 17" in finding.message  # 32 and 8 are


def test_inputs_that_reach_plus_one_at_position_seven(golden: Any) -> None:
    graph, images = golden("resnet20").graph, golden("resnet20").images
    assert graph.input.fix == 7
    assert len(about(preflight(graph), "+1.0 is 128")) == 1
    (finding,) = about(preflight(graph, calibration=images), "saturate at 127")
    assert finding.severity == "note"  # a step lost on the brightest pixels: less than position 6 would round away
    assert about(preflight(graph, calibration=images * np.float32(0.9)), "saturate at 127") == []
    lower_position = graph.replace({graph.input.name: dataclasses.replace(graph.input, fix=6)})
    assert about(preflight(lower_position, calibration=images), "saturate at 127") == []


def bytes_of(shares: dict[int, float], pixels: int = 1000) -> np.ndarray:
    """One image of so many bytes of each value, the rest drawn evenly; normalised to -1..1."""
    drawn = np.random.default_rng(0).integers(0, 255, pixels)
    at = 0
    for value, share in shares.items():
        drawn[at : at + int(share * pixels)] = value
        at += int(share * pixels)
    return ((drawn / 255 - 0.5) / 0.5).astype(np.float32).reshape(1, 1, pixels, 1)


@pytest.mark.parametrize(("white", "severity"), [(0.0, None), (0.05, "note"), (0.15, "note"), (0.25, "warning")])
def test_saturation_is_worth_a_warning_when_a_coarser_position_is_better(white: float, severity: str | None) -> None:
    """At 7 white loses a squared step and rounding a twelfth; at 6 rounding costs four twelfths: equal at a fifth of white."""
    images = bytes_of({255: white})
    graph = Graph("G", (Input(name="in", inputs=(), shape=images.shape[1:], fix=7),))
    found = about(preflight(graph, calibration=images), "saturate at 127")
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    if severity == "warning":
        assert "position 6 would give the images back better" in found[0].message
        assert "raise" not in found[0].message


def test_logits_too_coarse_to_separate_classes(golden: Any) -> None:
    graph, images = golden("resnet20").graph, golden("resnet20").images
    assert about(preflight(graph, calibration=images), "equal logits") == []
    coarse = graph.replace({graph.output.name: dataclasses.replace(graph.output, fix=-4)})
    (finding,) = about(preflight(coarse, calibration=images), "equal logits")
    assert "the steps are too coarse at position -4; algorithm = 'best'" in finding.message
    saturating = graph.replace({graph.output.name: dataclasses.replace(graph.output, fix=8)})
    (finding,) = about(preflight(saturating, calibration=images), "equal logits")
    assert "most of them saturated at position 8; algorithm = 'best'" in finding.message


def test_calibration_images_with_duplicates_among_the_test_images() -> None:
    graph = Graph("G", (Input(name="in", inputs=(), shape=(2, 2, 1)),))
    images = np.random.default_rng(0).normal(size=(9, 2, 2, 1)).astype(np.float32)
    (finding,) = about(preflight(graph, calibration=images, test=images[[5, 2, 2]]), "duplicates")
    assert finding.message.startswith("2 of 9 calibration images have exact duplicates among the test images")
    assert "counted from 0: 2 = 1, 5 = 0)" in finding.message
    assert about(preflight(graph, calibration=images[:4], test=images[4:]), "duplicates") == []


def test_frozen_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3))
    graph = lower(model, (3, 16, 16))
    assert about(preflight(graph, model=model), "frozen") == []
    model[0].requires_grad_(False)
    (finding,) = about(preflight(graph, model=model), "frozen")
    assert finding.message.startswith("2 parameters are frozen (0.weight, 0.bias)")


def test_warnings_come_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 17, 3), nn.ReLU6(), nn.Conv2d(17, 16, 3))
    assert [f.severity for f in preflight(lower(model, (3, 16, 16)))] == ["warning", "note"]
