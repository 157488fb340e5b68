"""MNIST is read in every form its files come in, and damaged ones are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from _archives import write_idx, write_mnist

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSettings, load_data
from edgesearch.objectives.data._mnist import FASHION_CLASSES, read_fashion_mnist, read_idx, read_mnist


@pytest.mark.parametrize(("place", "suffix"), [("", ".gz"), ("raw", ""), ("MNIST/raw", "")])
def test_mnist_is_read_from_plain_and_packed_files(tmp_path: Path, place: str, suffix: str) -> None:
    arrays = write_mnist(tmp_path / place, suffix)
    raw = read_mnist(DataSettings(name="mnist", root=tmp_path), None)
    assert np.array_equal(raw.train.images[..., 0], arrays["train-images-idx3"])
    assert raw.test is not None
    assert np.array_equal(raw.test.labels, arrays["t10k-labels-idx1"])


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw"])
def test_fashion_mnist_comes_in_the_same_files(tmp_path: Path, place: str) -> None:
    arrays = write_mnist(tmp_path / place, ".gz")
    raw = read_fashion_mnist(DataSettings(name="fashion_mnist", root=tmp_path), None)
    assert np.array_equal(raw.train.images[..., 0], arrays["train-images-idx3"])
    assert raw.classes == FASHION_CLASSES
    with pytest.raises(DataError, match="no FashionMNIST in"):
        read_fashion_mnist(DataSettings(name="fashion_mnist", root=tmp_path / "elsewhere"), None)


def test_the_whole_of_mnist(reference_data: Path) -> None:
    data = load_data(DataSettings(name="mnist", root=reference_data / "mnist", calibration_images=100))
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (54_900, 5_000, 100, 10_000)
    everything = np.concatenate([data.train.images, data.validation.images, data.calibration.images])
    assert everything.mean() / 255 == pytest.approx(0.1307, abs=1e-4)  # the mean that MNIST is known for


def test_damaged_idx_files(tmp_path: Path) -> None:
    good = tmp_path / "good"
    write_idx(good, np.zeros((3, 4, 4)))
    for name, content, complaint in (
        ("short", good.read_bytes()[:-1], "47 bytes of data"),
        ("other", b"GIF89a", "not an IDX"),
        ("deep", b"\0\0\x08\x64" + b"\0\0\0\1" * 100 + b"\0", "not an IDX"),
        ("empty", b"", "nothing"),
        ("packed.gz", gzip.compress(good.read_bytes())[:-9], "cannot read"),
        ("plain.gz", b"not gzip at all", "cannot read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            read_idx(tmp_path / name)
    with pytest.raises(DataError, match="no MNIST in"):
        read_mnist(DataSettings(name="mnist", root=tmp_path), None)
