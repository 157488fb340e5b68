"""What is said before a study starts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgesearch.objectives import DataSet, DataSettings, load_data
from edgesearch.search.library._findings import study_findings
from edgesearch.search.study._file import StudyFile, bundled_studies, load_study, parse_study
from edgesearch.spaces import unused_choices


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


def test_what_a_study_says_and_nothing_reads_is_told(data: DataSet) -> None:
    found = study_findings(study('"cnn_tiny"', "temperature = [2, 4]\n").model_copy(update={"boards": ("lab",)}), data)
    assert any(sentence.startswith("note: `temperature` in [space] decides nothing") for sentence in found)
    assert any(sentence.startswith("note: nothing is measured on lab, since the score is simulated") for sentence in found)
    measured = study('"cnn_tiny"').model_copy(update={"boards": ("lab",), "score": "board"})
    assert not any("lab" in sentence or "[space]" in sentence for sentence in study_findings(measured, data))


def test_what_search_says_and_the_sampler_does_not_read_is_told(data: DataSet) -> None:
    asked = "[search]\nstartup_trials = 4\npopulation = 6\n"
    found = study_findings(study('"cnn_tiny"', asked), data)
    assert "note: search.population is 6, which the samplers nsga2 and nsga3 read, and 'tpe' does not" in found
    assert not any("startup_trials" in sentence for sentence in found)
    found = study_findings(study('"cnn_tiny"', asked + 'sampler = "random"\n'), data)
    assert sum(sentence.startswith("note: search.") for sentence in found) == 2
    alone = 'name = "s"\n[search]\ntrials = 20\n[[candidates]]\nstudent = { architecture = "cnn_tiny", input_size = 32 }\n'
    found = study_findings(parse_study(alone.encode(), where="a test", folder=Path.cwd()), data)
    assert (
        "note: search.trials decides nothing: there is no [space], and its 1 [[candidates]] are all that the study tries"
        in found
    )


@pytest.mark.parametrize("name", bundled_studies())
def test_every_choice_of_the_bundled_studies_decides_something(name: str) -> None:
    space = load_study(name).space
    assert space is None or unused_choices(space) == []


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_images_of_two_splits_are_named_whatever_noise_is_added(tmp_path: Path, noise: float) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8), np.arange(100) % 4
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images[:40], test_labels=labels[:40])
    settings = DataSettings(name="npz", root=tmp_path / "a.npz", noise=noise)
    found = study_findings(study('"cnn_tiny"').model_copy(update={"data": settings}), load_data(settings))
    assert any("training images have exact duplicates among the test images" in sentence for sentence in found)


def test_what_was_left_out_of_the_data_is_said(data: DataSet) -> None:
    noted = dataclasses.replace(data, notes=("83 files were skipped: 80 .txt, 3 .mp4",))
    assert "note: 83 files were skipped: 80 .txt, 3 .mp4" in study_findings(study('"cnn_tiny"'), noted)


def test_calibration_images_among_the_test_images(data: DataSet) -> None:
    images = np.concatenate([data.test.images, data.calibration.images[:3]])
    leaky = dataclasses.replace(
        data, test=dataclasses.replace(data.test, images=images, names=(*data.test.names, "x", "y", "z"))
    )
    clean, leaked = study_findings(study('"cnn_tiny"'), data), study_findings(study('"cnn_tiny"'), leaky)
    assert not any("duplicates" in sentence for sentence in clean)
    assert leaked[0].startswith("warning: 3 of ")


def test_pictures_that_two_splits_share_are_named_by_their_files(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(dice.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / part / name / f"{number}.png")
    splits = load_data(DataSettings(name="folder", root=tmp_path))
    for kind, split in (("training", splits.train), ("validation", splits.validation), ("calibration", splits.calibration)):
        shutil.copy(tmp_path / split.names[0], tmp_path / "test" / "a" / f"{kind}.png")
    shutil.copy(tmp_path / splits.train.names[1], tmp_path / splits.validation.names[1])
    found = study_findings(study('"cnn_tiny"'), load_data(DataSettings(name="folder", root=tmp_path)))
    for kind, split in (("training", splits.train), ("validation", splits.validation), ("calibration", splits.calibration)):
        told = f"warning: 1 of {len(split)} {kind} images have exact duplicates among the test images"
        pair = f"({split.names[0]} = test/a/{kind}.png); accuracy on the test split"
        assert any(sentence.startswith(f"{told} {pair}") for sentence in found)
    pair = f"({splits.train.names[1]} = {splits.validation.names[1]}); accuracy on the validation split"
    assert any("training images have exact duplicates among the validation images" in s and pair in s for s in found)


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
