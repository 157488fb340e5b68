"""Splits are disjoint, fair and fixed by the seed; data that cannot be used is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesearch.errors import DataError
from edgesearch.objectives.data._dataset import DataSet, DataSettings, load_data


def numbered(root: Path, count: int = 200, class_count: int = 4, test: int = 40, **changes: object) -> Path:
    """An .npz whose every image is unlike any other, so that a picture says where it came from."""
    serial = np.arange(count + test)
    images = np.zeros((count + test, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = serial % 256, serial // 256
    labels = serial % class_count
    arrays = {
        "train_images": images[:count],
        "train_labels": labels[:count],
        "test_images": images[count:],
        "test_labels": labels[count:],
    }
    arrays.update(changes)  # type: ignore[arg-type]
    path = root / "data.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def serials(data: DataSet) -> list[set[int]]:
    splits = (data.train, data.validation, data.calibration, data.test)
    return [set((s.images[:, 0, 0, 0] + 256 * s.images[:, 0, 1, 0].astype(int)).tolist()) for s in splits]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.integers(4, 90), st.integers(1, 60), st.integers(1, 50), st.booleans())
def test_splits_are_disjoint_fair_and_as_large_as_asked(
    tmp_path_factory: pytest.TempPathFactory, seed: int, train: int, validation: int, calibration: int, own_test: bool
) -> None:
    missing = {} if own_test else {"test_images": None, "test_labels": None}
    path = numbered(tmp_path_factory.mktemp("data"), count=250, **missing)
    data = load_data(
        DataSettings(
            name="npz",
            root=path,
            seed=seed,
            train_images=train,
            validation_images=validation,
            calibration_images=calibration,
            test_images=30,
        )
    )
    parts = serials(data)
    assert [len(part) for part in parts] == [train, validation, calibration, 30]
    assert len(set.union(*parts)) == train + validation + calibration + 30
    for split in (data.train, data.validation, data.calibration, data.test):
        assert np.ptp(np.bincount(split.labels, minlength=4)) <= 2
        assert np.array_equal((split.images[:, 0, 0, 0] + 256 * split.images[:, 0, 1, 0].astype(int)) % 4, split.labels)


def test_the_seed_chooses_the_split_and_the_fingerprint_follows(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    one, same, other = (load_data(DataSettings(name="npz", root=path, seed=seed)) for seed in (1, 1, 2))
    assert serials(one) == serials(same)
    assert one.fingerprint == same.fingerprint
    assert serials(one)[1] != serials(other)[1]
    assert one.fingerprint != other.fingerprint


def test_fewer_training_images_leave_the_other_splits_as_they_are(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    whole, part = (load_data(DataSettings(name="npz", root=path, train_images=n)) for n in (None, 20))
    assert serials(whole)[1:] == serials(part)[1:]
    assert serials(part)[0] < serials(whole)[0]


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
        ({"train_images": np.zeros((200, 4, 4, 2), np.uint8)}, "has shape"),
        ({"train_images": np.full((200, 4, 4), np.nan)}, "nan"),
        ({"train_images": np.full((200, 4, 4), 1.5)}, "0 to 1"),
        ({"train_images": np.full((200, 4, 4), "a")}, "expected bytes"),
        ({"train_labels": np.zeros(199, np.int64)}, "199 labels"),
        ({"train_labels": np.zeros(200)}, "expected integers"),
        ({"train_labels": np.zeros(200, np.int64), "test_labels": np.zeros(40, np.int64)}, "single class"),
        ({"train_labels": np.arange(200) % 4 - 1}, "label of 'npz' is -1"),
        ({"test_labels": np.arange(40) % 5}, "label of 'npz' is 4"),
        ({"train_labels": (np.arange(200) % 2) * 3}, "class '1'"),
        ({"test_images": np.zeros((40, 5, 4, 1), np.uint8)}, "both must agree"),
        ({"test_images": None}, "only one of"),
        ({"train_images": None}, "expected train_images"),
        ({"x_train": np.zeros(3)}, "keep one"),
        ({"classes": np.array(["a", "b", "c"])}, "expected 0 to 2"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_data(DataSettings(name="npz", root=numbered(tmp_path, **changes)))


@pytest.mark.parametrize("part", ["train_images", "validation_images", "calibration_images", "test_images"])
def test_more_images_than_there_are(tmp_path: Path, part: str) -> None:
    with pytest.raises(DataError, match="cannot give 5000"):
        load_data(DataSettings(name="npz", root=numbered(tmp_path), **{part: 5000}))


def test_a_class_that_the_splits_leave_without_training_images(tmp_path: Path) -> None:
    labels = np.array([0] * 199 + [1])
    path = numbered(tmp_path, train_labels=labels, test_images=None, test_labels=None)
    with pytest.raises(DataError, match="class '1' of 'npz' is left without"):
        load_data(DataSettings(name="npz", root=path, train_images=10))


@pytest.mark.parametrize("settings", [{"noise": -0.1}, {"noise": 2}, {"train_images": 0}, {"name": "imagenet"}, {"sed": 1}])
def test_settings_are_validated(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings(**settings)  # type: ignore[arg-type]
