"""What is found wrong with teachers and students when a study is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesearch.errors import LoweringError, PluginError, SpaceError
from edgesearch.search import Study, StudyFile
from edgesearch.spaces import Candidate

OWN = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, in_channels=1, width=1.0, classes=7, num_classes=None):
        body = nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*body, nn.Linear(8, num_classes or 7))


class Fixed(Net):
    def __init__(self, in_channels):
        super().__init__(in_channels)


class Soft(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)
"""


def test_a_teacher_that_does_not_tell_the_classes_apart_is_refused_before_anything_is_trained(
    tiny: Study, tmp_path: Path
) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    tables = tiny.settings.to_json() | {"name": "taught"}
    teacher = {"architecture": "own_nets:Fixed", "input_size": 8}
    with pytest.raises(SpaceError, match="'own_nets:Fixed' has 7 outputs, but the data set 10 classes"):
        Study.open(StudyFile.parse(tables | {"teacher": teacher}, folder=tmp_path), tmp_path / "home")
    Study.open(
        StudyFile.parse(tables | {"teacher": teacher | {"architecture": "own_nets:Net"}}, folder=tmp_path), tmp_path / "home"
    )


def test_a_teacher_without_feature_maps_is_refused_where_they_are_compared(tiny: Study, tmp_path: Path) -> None:
    tables = tiny.settings.to_json() | {"name": "taught", "teacher": {"architecture": "mlp", "input_size": 8}}
    Study.open(StudyFile.parse(tables), tmp_path)
    tables["space"] = tables["space"] | {"distillation": ["none", "intermediate"]}
    with pytest.raises(SpaceError, match="the teacher, mlp, has none"):
        Study.open(StudyFile.parse(tables), tmp_path)
    Study.open(StudyFile.parse(tables | {"teacher": {"architecture": "cnn_tiny", "input_size": 8}}), tmp_path)


def test_a_teacher_that_its_images_are_too_small_for_is_refused_before_anything_is_trained(tiny: Study, tmp_path: Path) -> None:
    teacher = {"architecture": "squeezenet1_1", "stem": "imagenet", "input_size": 8}
    with pytest.raises(SpaceError, match="network 'squeezenet1_1' fails on an image of 1 x 8 x 8"):
        Study.open(StudyFile.parse(tiny.settings.to_json() | {"name": "taught", "teacher": teacher}), tmp_path)


def test_a_candidate_that_compares_feature_maps_is_not_evaluated_by_a_teacher_without(tiny: Study, tmp_path: Path) -> None:
    tables = tiny.settings.to_json() | {"name": "taught", "teacher": {"architecture": "mlp", "input_size": 8}}
    student = {"architecture": "cnn_tiny", "input_size": 8}
    candidate = Candidate.model_validate({"student": student, "distillation": {"kind": "intermediate"}})
    lines: list[str] = []
    with pytest.raises(SpaceError, match="the teacher, mlp, has none"):
        Study.open(StudyFile.parse(tables), tmp_path).evaluate(candidate, progress=lines.append)
    assert lines == []


def test_networks_of_one_size_are_refused_where_they_would_be_trained_on_smaller_images(tiny: Study, tmp_path: Path) -> None:
    recipe = {"epochs": 2, "small_epochs": 1}
    mlp = {"architecture": "mlp", "input_size": 8}
    tables = tiny.settings.to_json() | {"name": "small"}
    with pytest.raises(SpaceError, match=r"teacher.recipe: `small_epochs` needs a network that takes images of 6x6 pixels"):
        Study.open(StudyFile.parse(tables | {"teacher": mlp | {"recipe": recipe}}), tmp_path)
    with pytest.raises(SpaceError, match="mlp: `small_epochs` needs a network"):
        Study.open(StudyFile.parse(tables | {"space": {"students": ["mlp"], "input_size": [8]}, "train": recipe}), tmp_path)


def test_widths_that_a_network_ignores_are_expected_once(tiny: Study, tmp_path: Path) -> None:
    from edgesearch.search.library import preview

    (tmp_path / "own_nets.py").write_text(OWN)
    tables = tiny.settings.to_json() | {"name": "wide", "candidates": []}
    tables["space"] = {"students": ["own_nets:Net"], "width": [0.5, 1.0, 2.0], "input_size": [8]}
    opened = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path / "home")
    assert len(preview(opened.inputs, 3).kept) == 1


DEEP = """
from torch import nn
class Net(nn.Sequential):
    search_space = {"depth": DEPTHS}
    def __init__(self, num_classes, in_channels, depth):
        layers = [nn.Conv2d(8 if place else in_channels, 8, 3, 2) for place in range(depth)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.mark.parametrize(
    ("code", "depths", "runs"),
    [
        ("deep_or_flat", "[3, 1]", True),
        ("deeper_or_flat", "[4, 3, 1]", True),
        ("of_any_depth", '{"low": 1, "high": 9, "step": 1}', True),
        ("flat_at_last", "[9, 8, 7, 6, 5, 4, 3, 12, 1, 11]", True),
        ("deep_only", "[3, 4]", False),
    ],
)
def test_a_network_is_refused_only_where_none_of_its_parameters_fits(
    tiny: Study, tmp_path: Path, code: str, depths: str, runs: bool
) -> None:
    """Three layers of stride 2 leave nothing of 8 x 8 pixels."""
    (tmp_path / f"{code}.py").write_text(DEEP.replace("DEPTHS", depths))
    space = {"students": [f"{code}:Net"], "input_size": [8]}
    tables = tiny.settings.to_json() | {"name": "deep", "candidates": [], "space": space}
    settings = StudyFile.parse(tables, folder=tmp_path)
    if runs:
        assert Study.open(settings, tmp_path / "home").unsupported == ()
    else:
        with pytest.raises(LoweringError, match="1 x 1"):
            Study.open(settings, tmp_path / "home")


def test_named_candidates_without_a_space_are_looked_at_when_a_study_is_opened(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    (tmp_path / "unfinished_nets.py").write_text("class Net(")
    tables = tiny.settings.to_json() | {"name": "named", "space": None}

    def opened(*students: str, **more: object) -> Study:
        candidates = [{"student": {"architecture": name, "input_size": 8}} for name in students]
        return Study.open(StudyFile.parse(tables | {"candidates": candidates} | more, folder=tmp_path), tmp_path / "home")

    with pytest.raises(SpaceError, match="'own_nets:Fixed' has 7 outputs, but the data set 10 classes"):
        opened("own_nets:Fixed")
    with pytest.raises(LoweringError, match="softmax"):
        opened("own_nets:Soft", "own_nets:Fixed")
    (sentence,) = opened("own_nets:Soft", "own_nets:Net").unsupported
    assert "softmax" in sentence
    for broken in ("unfinished_nets:Net", "own_nets:Missing"):
        for more in ({}, {"space": {"students": ["mlp"], "input_size": [8]}}):
            with pytest.raises(PluginError, match=f"student '{broken}'"):
                opened(broken, "own_nets:Net", **more)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("path", ["no_code:Thing", "own_code:missing", "own_code:NUMBER"])
@pytest.mark.parametrize(
    ("noun", "space", "candidate"),
    [
        ("pruner", {"pruning": ["PATH"], "ratio": [0.5]}, {"pruning": {"method": "PATH", "ratio": 0.5}}),
        ("quantization method", {"algorithm": ["best", "PATH"]}, {"quantization": {"algorithm": "PATH"}}),
    ],
)
def test_pruners_and_quantizers_that_are_none_are_refused_before_anything_is_trained(
    tiny: Study, tmp_path: Path, path: str, noun: str, space: dict[str, Any], candidate: dict[str, Any]
) -> None:
    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        return [named(item) for item in value] if isinstance(value, list) else path if value == "PATH" else value

    (tmp_path / "own_code.py").write_text("NUMBER = 3\n")
    student = {"student": {"architecture": "mlp", "input_size": 8}}
    tables = tiny.settings.to_json() | {"name": "coded", "candidates": []}
    tables["space"] = {"students": ["mlp"], "input_size": [8]}
    of_space, of_candidates = tables["space"] | named(space), [student | named(candidate)]
    for changes in ({"space": of_space}, {"candidates": of_candidates}, {"candidates": of_candidates, "space": None}):
        with pytest.raises(PluginError, match=f"{noun} '{path}'"):
            Study.open(StudyFile.parse(tables | changes, folder=tmp_path), tmp_path / "home")
    opened = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path / "home")
    with pytest.raises(PluginError, match=f"{noun} '{path}'"):
        opened.evaluate(Candidate.model_validate(student | named(candidate)))
    assert not (tmp_path / "home").exists()


def test_an_empty_store_is_none_that_was_given(tiny: Study, tmp_path: Path) -> None:
    settings = tiny.settings.with_changes(store=str(tmp_path / "own"))
    assert Study.open(settings, tmp_path / "home", store="").settings.store == str(tmp_path / "own")
    assert Study.open(tiny.settings, tmp_path / "home", store="").settings.store == ""
