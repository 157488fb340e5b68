"""What a study file says and nothing reads is refused, and not what somebody left as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgesearch.errors import SpaceError
from edgesearch.objectives import QatRecipe, Recipe
from edgesearch.search.commands._networks import read_candidate
from edgesearch.search.study._file import StudyFile

TABLES: dict[str, Any] = {"name": "a", "space": {"students": ["cnn_tiny", "resnet18", "resnet8"]}}


def parse(**tables: Any) -> StudyFile:
    return StudyFile.parse(TABLES | tables)


@pytest.mark.parametrize("table", ["finetune", "qat"])
@pytest.mark.parametrize(
    ("train", "later"),
    [
        ({"mix": "mixup"}, {"mix": "none"}),
        ({"mix": "mixup", "mix_alpha": 0.2}, {"mix_alpha": 1.0}),
        ({"augmentation": "randaugment", "augmentation_strength": 0.5}, {"augmentation_strength": 1.0}),
    ],
)
def test_no_training_shows_images_in_its_own_way(table: str, train: dict[str, Any], later: dict[str, Any]) -> None:
    ((name, asked),) = later.items()
    complaint = rf"{table}\.{name} is {asked!r} and train\.{name} {train[name]!r}; .* set it in \[train\] alone"
    with pytest.raises(SpaceError, match=complaint):
        parse(train=train, **{table: later})
    with pytest.raises(SpaceError, match=complaint):
        parse(train=Recipe(**train), **{table: (QatRecipe if table == "qat" else Recipe)(**later)})
    parse(train=train)
    parse(train=train, **{table: {"epochs": 2}})
    parse(train=train, **{table: {name: train[name]}})
    parse(**{table: later})


def test_what_a_program_wrote_of_settings_is_read_again() -> None:
    study = parse(train={"mix": "mixup", "mix_alpha": 0.2})
    assert StudyFile.parse(study.to_json()) == study
    assert study.with_changes(train={"mix": "cutmix"}).train.mix == "cutmix"


@pytest.mark.parametrize(
    ("student", "complaint"),
    [
        ({"architecture": "cnn_tiny", "head": 64}, "head is 64, and cnn_tiny has no such choice; mobilenet_v2, .* take a head"),
        (
            {"architecture": "cnn_small", "stem": "imagenet"},
            "stem is 'imagenet', and cnn_small has no .* have two stems; leave",
        ),
        ({"architecture": "squeezenet1_1", "head": 64}, "head is 64, and squeezenet1_1"),
        ({"architecture": "resnet8", "stem": "imagenet"}, "stem is 'imagenet', and resnet8"),
    ],
)
def test_settings_that_a_student_does_not_have_are_refused(student: dict[str, Any], complaint: str) -> None:
    name = student["architecture"]
    with pytest.raises(SpaceError, match=f"the study: teacher.{complaint}"):
        parse(teacher=student)
    with pytest.raises(SpaceError, match=rf"candidates\.1\.student\.{complaint}"):
        parse(candidates=[{"student": {"architecture": "mlp"}}, {"student": student}])
    own = {key: [value] if key == "stem" else value for key, value in student.items() if key != "architecture"}
    with pytest.raises(SpaceError, match=rf"space\.student\.{re.escape(name)}\.{complaint}"):
        parse(space={"students": [name], "student": {name: own}})


def test_settings_that_some_students_have_are_for_those() -> None:
    parse(space={"students": ["cnn_tiny", "resnet18"], "head": 64, "stem": ["imagenet"]})
    student = {"resnet8": {"head": 64}, "resnet18": {"head": 64, "stem": ["small", "imagenet"]}, "cnn_tiny": {"head": 0}}
    parse(space=TABLES["space"] | {"student": student})
    parse(teacher={"architecture": "resnet50", "head": 256, "stem": "imagenet"})
    parse(candidates=[{"student": {"architecture": "resnet8", "head": 64}}, {"student": {"architecture": "mlp"}}])


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"pruning": {"ratio": 0.5}}, "pruning.ratio is 0.5, and candidates.0.pruning.method is not there; give the method"),
        ({"pruning": {"target": "fps"}}, "pruning.target is 'fps', and candidates.0.pruning.method is not there"),
        ({"pruning": {"method": "one_step"}}, "pruning.method is 'one_step', and it has no ratio above 0"),
        ({"distillation": {"alpha": 0.1}}, "distillation.alpha is 0.1, and candidates.0.distillation.kind is not there"),
        (
            {"quantization": {"fast_finetune": True}},
            "quantization.fast_finetune is True, and .*quantization.backend is not there",
        ),
        ({"quantization": {"start": "scratch"}}, "quantization.start is 'scratch', and candidates.0.quantization.method"),
    ],
)
def test_choices_that_come_to_nothing_are_refused(choices: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=rf"the study: candidates\.0\.{complaint}"):
        parse(candidates=[{"student": {"architecture": "mlp"}, **choices}])
    with pytest.raises(SpaceError, match=r"give the|no ratio"):
        read_candidate(written(choices, tmp_path / "c.toml"))


def written(choices: dict[str, Any], path: Path) -> Path:
    """A candidate's file."""
    tables = {"student": {"architecture": "mlp"}, **choices}
    lines = [f"{table}.{key} = {json.dumps(value)}" for table, keys in tables.items() for key, value in keys.items()]
    path.write_text("\n".join(lines))
    return path


def test_choices_that_are_said_to_be_none_may_have_settings() -> None:
    none = {"pruning": {"method": "none", "ratio": 0.5}, "distillation": {"kind": "none", "temperature": 2.0}}
    parse(candidates=[{"student": {"architecture": "mlp"}, **none}])
    parse(candidates=[{"student": {"architecture": "mlp"}, "quantization": {"bits": 16, "algorithm": "vitis"}}])
    for pruning in ({"method": "one_step", "ratio": 0.5, "steps": 4}, {"method": "n_m"}, {}):
        study = parse(candidates=[{"student": {"architecture": "mlp"}, "pruning": pruning}])
        assert StudyFile.parse(study.to_json()) == study
