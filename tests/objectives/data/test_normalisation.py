"""A study's normalisation is its own numbers, ImageNet's or the training images'; the default goes from -1 to 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _archives import numbered
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesearch.errors import DataError, SettingsError
from edgesearch.objectives.data import DataSettings, Normalisation, load_data, prepare
from edgesearch.objectives.data._normalisation import measure


def coloured(root: Path, channels: int = 3) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 5, channels), dtype=np.uint8)
    np.savez(root / "a.npz", train_images=images, train_labels=np.arange(100) % 4)
    return root / "a.npz"


def test_the_default_is_todays() -> None:
    assert load_data(DataSettings()).normalisation == Normalisation((0.5,), (0.5,))


def test_numbers_of_any_kind_are_written_alike() -> None:
    given = Normalisation(np.array([0, 0.5]), [np.float32(1), 2])  # type: ignore[arg-type]
    assert repr(given) == "Normalisation(mean=(0.0, 0.5), std=(1.0, 2.0))"


def test_names_and_numbers(tmp_path: Path) -> None:
    root = coloured(tmp_path)

    def of(choice: object) -> Normalisation:
        settings = DataSettings.model_validate({"name": "npz", "root": root, "normalisation": choice})
        assert DataSettings.model_validate_json(settings.model_dump_json()) == settings
        return load_data(settings).normalisation

    assert of("imagenet").std == (0.229, 0.224, 0.225)
    assert of({"mean": 0.25, "std": [0.5]}) == Normalisation((0.25,), (0.5,))
    assert of({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 2]}) == Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))
    assert len(of("data").mean) == 3


def test_the_training_images_own_are_mean_0_and_deviation_1(tmp_path: Path) -> None:
    data = load_data(DataSettings(name="npz", root=coloured(tmp_path), normalisation="data"))
    shown = prepare(data.train.images, None, data.normalisation).astype(np.float64)
    assert shown.mean((0, 1, 2)) == pytest.approx(0, abs=1e-5)
    assert shown.std((0, 1, 2)) == pytest.approx(1, abs=1e-5)


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 99))
def test_measured_as_numpy_measures(count: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, channels), dtype=np.uint8)
    found = measure(images)
    assert found.mean == pytest.approx((images / 255).mean((0, 1, 2)))
    assert found.std == pytest.approx((images / 255).std((0, 1, 2)))


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ("imagnet", 'expected "imagenet", "data" or'),
        ({"mean": [0.5]}, "is no normalisation"),
        ({"mean": [0.5], "std": ["a"]}, "is no normalisation"),
        ({"mean": [10**400], "std": [0.5]}, "is no normalisation"),
        ({"mean": [0.5], "std": [0.5], "scale": 1}, "is no normalisation"),
        ({"mean": [0.5, 0.5], "std": [0.5]}, "2 values of `mean` and 1 of `std`"),
        ({"mean": [], "std": []}, "0 values"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ({"mean": [0.5], "std": [-1]}, "above 0"),
        ({"mean": [0.5], "std": [1e-46]}, "pixels are from 0 to 1, give stds of 1e-06 or more"),
        ({"mean": [float("nan")], "std": [1]}, "not finite"),
        ({"mean": [0.5], "std": [float("inf")]}, "not finite"),
        ([0.5], "is no normalisation"),
        (True, "is no normalisation"),
    ],
)
def test_values_are_checked(choice: object, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint) as raised:
        DataSettings.model_validate({"normalisation": choice})
    assert raised.value.error_count() == 1


def test_channels_must_agree(tmp_path: Path) -> None:
    two = Normalisation((0.5, 0.5), (0.5, 0.5))
    with pytest.raises(DataError, match="for 2 channels but the images have 3"):
        load_data(DataSettings(name="npz", root=coloured(tmp_path), normalisation=two))


def test_grey_images_are_scaled_by_the_mean_over_imagenets_colours() -> None:
    assert load_data(DataSettings(normalisation="imagenet")).normalisation == Normalisation((0.449,), (0.226,))


def test_a_channel_that_is_constant_has_no_deviation(tmp_path: Path) -> None:
    path = numbered(tmp_path, train_images=np.full((200, 4, 4), 7, np.uint8))
    with pytest.raises(DataError, match="channel 0 of the training images is 7 everywhere"):
        load_data(DataSettings(name="npz", root=path, normalisation="data"))


@pytest.mark.parametrize("mean", [(123.7, 116.3, 103.5), (-0.1,), (1.5,)])
def test_means_are_of_pixels_from_0_to_1(mean: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="pixels are from 0 to 1"):
        Normalisation(mean, (0.2,) * len(mean))
