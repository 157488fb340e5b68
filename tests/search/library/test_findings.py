"""What is said before a study starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgesearch.objectives import DataSet, load_data
from edgesearch.search.library._findings import study_findings
from edgesearch.search.study._file import StudyFile, parse_study


def study(students: str, extra: str = "") -> StudyFile:
    text = f'name = "s"\n[space]\nstudents = [{students}]\ninput_size = [32]\nwidth = {{ low = 0.5, high = 1.0 }}\n{extra}'
    return parse_study(text.encode(), where="a test", folder=Path.cwd())


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(study('"cnn_tiny"').data)


def test_relu6_and_odd_channels_are_named_with_their_student(data: DataSet) -> None:
    found = study_findings(study('"mobilenet_v2", "resnet20"'), data)
    (relu6,) = [sentence for sentence in found if "ReLU6" in sentence]
    assert relu6.startswith("warning: mobilenet_v2: 35 ReLU6")
    assert found.index(relu6) == 0  # warnings first
    assert any(sentence.startswith("note: mobilenet_v2:") and "no multiple of 16" in sentence for sentence in found)
    assert any(sentence.startswith("note: resnet20:") and "conv1 8" in sentence for sentence in found)  # at half its width


def test_a_student_that_cannot_be_built_is_passed_over(data: DataSet) -> None:
    found = study_findings(study('"no_such_package:Net", "mobilenet_v2"'), data)
    assert found[0].startswith("warning: mobilenet_v2:")
    assert not any("no_such_package" in sentence for sentence in found)


def test_what_was_left_out_of_the_data_is_said(data: DataSet) -> None:
    noted = dataclasses.replace(data, notes=("83 files were skipped: 80 .txt, 3 .mp4",))
    assert "note: 83 files were skipped: 80 .txt, 3 .mp4" in study_findings(study('"cnn_tiny"'), noted)


def test_calibration_images_among_the_test_images(data: DataSet) -> None:
    leaky = dataclasses.replace(
        data, test=dataclasses.replace(data.test, images=np.concatenate([data.test.images, data.calibration.images[:3]]))
    )
    clean, leaked = study_findings(study('"cnn_tiny"'), data), study_findings(study('"cnn_tiny"'), leaky)
    assert not any("duplicates" in sentence for sentence in clean)
    assert leaked[0].startswith("warning: 3 of ")


@pytest.mark.parametrize(("white_columns", "warned"), [(1, False), (6, True)])
def test_saturation_is_said_only_where_it_costs_more_than_rounding(data: DataSet, white_columns: int, warned: bool) -> None:
    """Some white saturates at the position that most images ask for; an ordinary study starts without a word on that."""
    images = np.random.default_rng(0).integers(0, 200, data.calibration.images.shape, dtype=np.uint8)
    images[::3, :, :white_columns] = 255  # most images have none and ask for position 7
    some_white = dataclasses.replace(data, calibration=dataclasses.replace(data.calibration, images=images))
    assert any("saturate" in sentence for sentence in study_findings(study('"cnn_tiny"'), some_white)) is warned


def test_only_a_candidate_without_a_space(data: DataSet) -> None:
    text = '[[candidates]]\nstudent = { architecture = "mobilenet_v2", input_size = 32 }'
    found = study_findings(parse_study(f'name = "s"\n{text}'.encode(), where="a test", folder=Path.cwd()), data)
    assert found[0].startswith("warning: mobilenet_v2: 35 ReLU6")
