"""A data set says what it is made of; data that cannot be used is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _archives import numbered, serials
from numpy.typing import NDArray
from pydantic import ValidationError

from edgesearch.errors import DataError, SettingsError
from edgesearch.objectives.data import DataSettings, load_data


def test_the_seed_chooses_the_split_and_the_fingerprint_follows(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    one, same, other = (load_data(DataSettings(name="npz", root=path, seed=seed)) for seed in (1, 1, 2))
    assert serials(one) == serials(same)
    assert one.fingerprint == same.fingerprint
    assert serials(one)[1] != serials(other)[1]
    assert one.fingerprint != other.fingerprint


def test_digits_come_with_the_library_and_noise_makes_them_others() -> None:
    plain, noisy = load_data(DataSettings()), load_data(DataSettings(noise=0.2))
    assert plain.size == (8, 8)
    assert plain.channels == 1
    assert sum(map(len, (plain.train, plain.validation, plain.calibration, plain.test))) == 1797
    for a, b in ((plain.validation, noisy.validation), (plain.train, noisy.train)):
        assert np.array_equal(a.labels, b.labels)
        inside = (a.images > 100) & (a.images < 155)  # far from black and white, where noise is cut off
        assert (b.images.astype(float) - a.images)[inside].std() == pytest.approx(51, rel=0.1)
    assert plain.fingerprint != noisy.fingerprint


def test_images_are_brought_to_the_size_asked_for() -> None:
    assert load_data(DataSettings(image_size=12)).test.images.shape[1:] == (12, 12, 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train_images": np.zeros((0, 4, 4, 1), np.uint8), "train_labels": np.zeros(0, np.int64)}, "no training images"),
        ({"train_images": np.zeros((200, 4), np.uint8)}, "has shape"),
        ({"train_labels": np.zeros(199, np.int64)}, "199 labels"),
        ({"train_labels": np.zeros(200)}, "expected integers"),
        ({"train_labels": np.zeros(200, np.int64), "test_labels": np.zeros(40, np.int64)}, "single class"),
        ({"train_labels": np.arange(200) % 4 - 1}, "label of 'npz' is -1"),
        ({"test_labels": np.arange(40) % 5}, "label of 'npz' is 4"),
        ({"train_labels": (np.arange(200) % 2) * 3}, "class '1'"),
        ({"test_images": np.zeros((40, 5, 4, 1), np.uint8)}, "both must agree"),
        ({"classes": np.array(["a", "b", "c"])}, "expected 0 to 2"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_data(DataSettings(name="npz", root=numbered(tmp_path, **changes)))


@pytest.mark.parametrize("settings", [{"noise": -0.1}, {"noise": 2}, {"train_images": 0}, {"name": "imagenet"}, {"sed": 1}])
def test_settings_are_validated(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        DataSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"white": 0}, {"white": float("inf")}, {"options": {"a": object()}}, {"skip_unreadable": 3}]
)
def test_newer_settings_are_validated(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"root": "flowers"}, r"'digits' does not read root = \"flowers\"; add name = \"folder\" or name = \"npz\""),
        ({"download": True}, "'digits' does not read download = true; leave it out"),
        ({"white": 16.0}, "'digits' does not read white = 16; leave it out"),
        ({"name": "npz", "root": "a.npz", "download": True}, "'npz' does not read download = true"),
        ({"name": "npz", "root": "a.npz", "skip_unreadable": True}, "'npz' does not read skip_unreadable = true"),
        ({"name": "folder", "root": "a", "download": True}, "'folder' does not read download"),
        ({"name": "mnist", "download": True, "white": 255}, "'mnist' does not read white"),
        ({"name": "cifar10", "skip_unreadable": True}, "'cifar10' does not read skip_unreadable"),
    ],
)
def test_settings_that_the_source_does_not_read_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        DataSettings(**settings)  # type: ignore[arg-type]


def test_an_own_source_may_read_every_setting() -> None:
    own = DataSettings(name="a:load", root=Path("a"), download=True, white=3, skip_unreadable=True)
    assert DataSettings.model_validate_json(own.model_dump_json()) == own
    assert DataSettings(root=None, download=False) == DataSettings()


def test_named_classes_without_images(tmp_path: Path) -> None:
    path = numbered(tmp_path, classes=np.array(["a", "b", "c", "d", "e"]))
    with pytest.raises(DataError, match="class 'e' of 'npz' has no training images; add some, or take it out"):
        load_data(DataSettings(name="npz", root=path))


def test_preparation_says_how_images_got_their_size(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (200, 4, 6, 1), dtype=np.uint8)
    path = numbered(tmp_path, train_images=wide, test_images=None, test_labels=None)
    assert load_data(DataSettings(name="npz", root=path)).preparation == "images are as they are stored"
    sentence = load_data(DataSettings(name="npz", root=path, image_size=8, noise=0.25)).preparation
    assert "4 x 6 pixels (height x width) were resized to 8 x 8 without cropping" in sentence
    assert "standard deviation 0.25" in sentence


@pytest.mark.parametrize(("of_first", "classes", "is_told"), [(90, 2, True), (70, 2, False), (60, 5, True), (40, 5, False)])
def test_a_class_that_hides_the_others_is_said(tmp_path: Path, of_first: int, classes: int, is_told: bool) -> None:
    labels = np.array([0] * of_first + [1 + place % (classes - 1) for place in range(100 - of_first)])
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 1), dtype=np.uint8)
    path = numbered(tmp_path, train_images=images, train_labels=np.tile(labels, 2), test_images=None, test_labels=None)
    notes = load_data(DataSettings(name="npz", root=path, validation_images=100, test_images=20, calibration_images=5)).notes
    assert any("validation images are of one class, 0: who always answers it" in note for note in notes) == is_told


@pytest.mark.parametrize(
    ("test", "is_told"),
    [
        (lambda images: images // 255, True),  # bytes from 0 to 1
        (lambda images: images // 32, True),  # three bits
        (lambda images: 255 - images, False),
        (lambda images: images // 2, False),  # darker, as by another lamp
        (lambda images: images // 2 + 127, False),
    ],
)
def test_a_test_set_on_another_scale_is_said(
    tmp_path: Path, test: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], is_told: bool
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (240, 40, 70, 3), dtype=np.uint8)
    path = numbered(tmp_path, train_images=images[:200], test_images=test(images[200:]))
    notes = load_data(DataSettings(name="npz", root=path)).notes
    assert any("the test images have values around" in note for note in notes) == is_told
    assert not any("the validation images" in note for note in notes)


def test_small_classes_are_said(tmp_path: Path) -> None:
    labels = np.array([0] * 100 + [1] * 99 + [2])
    path = numbered(
        tmp_path,
        train_labels=labels,
        classes=np.array(
            [
                "a",
                "b",
                "rare",
            ]
        ),
        test_labels=np.arange(40) % 2,
    )
    notes = load_data(DataSettings(name="npz", root=path, validation_images=20, calibration_images=5)).notes
    assert "a class has a single image to train on: rare" in notes
    assert "1 of 3 classes have no test image (rare), so the test accuracy says nothing of them" in notes
    assert load_data(DataSettings()).notes == ()
