"""Splits are disjoint, fair and fixed by the seed, and each has a fingerprint of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _archives import numbered, serials
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.data._cifar10 import CIFAR10_CLASSES


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


def test_fewer_training_images_leave_the_other_splits_as_they_are(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    whole, part = (load_data(DataSettings(name="npz", root=path, train_images=n)) for n in (None, 20))
    assert serials(whole)[1:] == serials(part)[1:]
    assert serials(part)[0] < serials(whole)[0]


@pytest.mark.parametrize("part", ["train_images", "validation_images", "calibration_images", "test_images"])
def test_more_images_than_there_are(tmp_path: Path, part: str) -> None:
    with pytest.raises(DataError, match="cannot give 5000"):
        load_data(DataSettings(name="npz", root=numbered(tmp_path), **{part: 5000}))


def test_a_class_that_the_splits_leave_without_training_images(tmp_path: Path) -> None:
    labels = np.array([0] * 199 + [1])
    path = numbered(tmp_path, train_labels=labels, test_images=None, test_labels=None)
    with pytest.raises(DataError, match=r"class '1' of 'npz' is left without .* lower `test_images`, `validation_images` and"):
        load_data(DataSettings(name="npz", root=path, train_images=10))
    path = numbered(tmp_path, train_labels=labels, test_labels=np.zeros(40, np.int64))
    with pytest.raises(DataError, match="or lower `validation_images` and `calibration_images`"):
        load_data(DataSettings(name="npz", root=path, train_images=10))


def changed(one: DataSet, other: DataSet) -> set[str]:
    """The parts whose fingerprints differ."""
    assert set(one.fingerprints) == set(other.fingerprints) == {"train", "validation", "calibration", "test", "meta"}
    assert (one.fingerprint == other.fingerprint) == (one.fingerprints == other.fingerprints)
    return {part for part, value in one.fingerprints.items() if value != other.fingerprints[part]}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.3]), st.booleans())
def test_the_number_of_test_images_changes_the_test_split_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, first: int, second: int, noise: float, own_validation: bool
) -> None:
    own = {"x_val": np.full((8, 4, 4, 1), 9, np.uint8), "y_val": np.arange(8) % 4}
    path = numbered(tmp_path_factory.mktemp("data"), **own)
    one, other = (
        load_data(
            DataSettings(
                name="npz",
                root=path,
                seed=seed,
                test_images=n,
                noise=noise,
                normalisation="data",
                own_validation=own_validation,
            )
        )
        for n in (first, second)
    )
    assert changed(one, other) == (set() if first == second else {"test"})
    assert len(other.test) == second


@pytest.mark.parametrize(("first", "second"), [(1, 2), (20, 30), (7, None), (None, 40)])
def test_without_test_images_of_its_own_up_to_a_fifth_changes_the_test_split_alone(
    tmp_path: Path, first: int | None, second: int | None
) -> None:
    path = numbered(tmp_path, test_images=None, test_labels=None)  # 200 images
    one, other = (load_data(DataSettings(name="npz", root=path, test_images=n)) for n in (first, second))
    assert changed(one, other) == (set() if len(one.test) == len(other.test) else {"test"})
    assert len(one.test) == (first or 40)
    assert len(other.test) == (second or 40)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"test_images": 20}, {"test_images": 50}),  # more than a fifth
        ({"test_images": 20, "test_first": True}, {"test_images": 30, "test_first": True}),
        ({"test_images": 20}, {"test_images": 20, "test_first": True}),
    ],
)
def test_all_splits_follow_the_test_images_that_are_taken_first(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    path = numbered(tmp_path, test_images=None, test_labels=None)
    drawn = [load_data(DataSettings(name="npz", root=path, **settings)) for settings in (one, other)]
    assert {"train", "validation", "calibration"} <= changed(*drawn)


def test_test_images_that_are_not_asked_for_are_there_for_splits_that_would_not_suffice(tmp_path: Path) -> None:
    path = numbered(tmp_path, test_images=None, test_labels=None)
    asked = {"train_images": 150, "validation_images": 20, "calibration_images": 10}
    drawn = load_data(DataSettings(name="npz", root=path, test_images=20, **asked))
    assert [len(split) for split in (drawn.train, drawn.validation, drawn.calibration, drawn.test)] == [150, 20, 10, 20]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.none() | st.integers(2, 190), st.none() | st.integers(1, 60), st.none() | st.integers(1, 60))
def test_what_could_be_drawn_with_test_images_first_can_be_drawn(
    tmp_path_factory: pytest.TempPathFactory, test: int, train: int | None, validation: int | None, calibration: int | None
) -> None:
    path = numbered(tmp_path_factory.mktemp("data"), test_images=None, test_labels=None)
    asked = DataSettings(
        name="npz",
        root=path,
        test_images=test,
        train_images=train,
        validation_images=validation,
        calibration_images=calibration,
    )
    try:
        before = load_data(asked.model_copy(update={"test_first": True}))
    except DataError:
        return
    now = load_data(asked)
    assert len(now.test) == len(before.test) == test
    for name, count in (("train", train), ("validation", validation), ("calibration", calibration)):
        assert count is None or len(getattr(now, name)) == count


def test_every_part_has_its_own_fingerprint(tmp_path: Path) -> None:
    path = numbered(tmp_path)
    base = DataSettings(name="npz", root=path, validation_images=20, calibration_images=10, train_images=60)
    plain = load_data(base)

    def after(**changes: object) -> set[str]:
        return changed(plain, load_data(base.model_copy(update=changes)))

    assert after() == set()
    assert after(train_images=50) == {"train"}
    assert after(calibration_images=11) == {"calibration", "train"}
    assert after(validation_images=21) == {"validation", "calibration", "train"}
    assert after(normalisation="data") == {"meta"}
    assert after(noise=0.1) == {"train", "validation", "calibration", "test"}
    assert after(seed=1) == {"train", "validation", "calibration", "test"}
    assert after(image_size=8) == {"train", "validation", "calibration", "test", "meta"}
    (tmp_path / "elsewhere").mkdir()
    assert after(root=path.rename(tmp_path / "elsewhere" / "other.npz")) == set()


def test_labels_are_in_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    labels = np.arange(40) % 4
    one, other = (
        load_data(DataSettings(name="npz", root=numbered(tmp_path / name, test_labels=given)))
        for name, given in (("a", labels), ("b", labels[::-1].copy()))
    )
    assert "test" in changed(one, other)


def test_classes_are_in_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (
        load_data(DataSettings(name="npz", root=numbered(tmp_path / name, classes=np.array(list(names)))))
        for name, names in (("a", "wxyz"), ("b", "abcd"))
    )
    assert changed(one, other) == {"meta"}


def test_the_same_images_under_a_name_that_is_augmented_otherwise_are_told_apart(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(100) % 10, classes=np.array(CIFAR10_CLASSES))
    one, other = (load_data(DataSettings(name=name, root=tmp_path / "a.npz")) for name in ("cifar10", "npz"))
    assert one.fingerprint == other.fingerprint
    assert {part for part in one.fingerprints if one.fingerprints[part] != other.fingerprints[part]} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "fingerprint"),
    [
        ({}, "f1b454b273f3a29c6bbd7fc28ee7edb50547051c057dc42c35f459b153979f90"),
        (
            {"noise": 0.1, "validation_images": 400, "image_size": 12},
            "7da127f8601523b216c03b0510eaf70b61b46276049e81765209b8c1271bbaf6",
        ),
    ],
)
def test_splits_are_those_of_version_0_1_0(changes: dict[str, object], fingerprint: str) -> None:
    assert load_data(DataSettings.model_validate(changes)).fingerprint == fingerprint


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(2, 6), st.integers(0, 99))
def test_every_prefix_of_a_split_is_a_fair_sample_of_uneven_classes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, class_count: int, data_seed: int
) -> None:
    shares = np.random.default_rng(data_seed).dirichlet(np.full(class_count, 5.0))
    labels = np.repeat(np.arange(class_count), np.maximum(6, (shares * 200).astype(int)))
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp("data") / "a.npz"
    np.savez(path, train_images=images, train_labels=labels)
    data = load_data(DataSettings(name="npz", root=path, seed=seed))
    expected = np.bincount(labels) / len(labels)
    for split in (data.train, data.validation, data.calibration, data.test):
        counts = np.bincount(split.labels, minlength=class_count)
        assert np.abs(counts - expected * len(split)).max() < 3
    assert sum(map(len, (data.train, data.validation, data.calibration, data.test))) == len(labels)


def test_so_many_validation_images_leave_some_for_calibration() -> None:
    data = load_data(DataSettings(name="digits", validation_images=1300))
    assert (len(data.validation), len(data.calibration), len(data.train)) == (1300, 13, 125)
    with pytest.raises(DataError, match="143 calibration images: only 138 are left"):
        load_data(DataSettings(name="digits", validation_images=1300, calibration_images=143))
