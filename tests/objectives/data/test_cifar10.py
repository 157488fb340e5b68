"""CIFAR-10 is read in every form it is published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _archives import write_binary_batches

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSettings, RawData, load_data
from edgesearch.objectives.data._cifar10 import CIFAR10_CLASSES, read_cifar10

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def read(root: Path) -> RawData:
    return read_cifar10(DataSettings(name="cifar10", root=root), None)


def test_binary_batches(tmp_path: Path) -> None:
    pixels = write_binary_batches(tmp_path, 5)
    raw = read(tmp_path)
    assert np.array_equal(raw.train.images, pixels[:5].reshape(25, 32, 32, 3))
    assert raw.train.labels.tolist() == [0, 1, 2, 3, 4] * 5
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"12345")
    with pytest.raises(DataError, match="whole number"):
        read(tmp_path)


def test_an_npz_has_its_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((20, 32, 32, 3), np.uint8), y_train=np.arange(20)[:, None] % 10)
    for root in (tmp_path, tmp_path / "cifar10.npz"):
        assert read(root).classes[:2] == ("airplane", "automobile")


def test_an_npz_with_other_names_is_another_data_set(tmp_path: Path) -> None:
    arrays = {"x_train": np.zeros((20, 32, 32, 3), np.uint8), "y_train": np.arange(20) % 10}
    np.savez(tmp_path / "cifar10.npz", classes=sorted(CIFAR10_CLASSES, reverse=True), **arrays)
    with pytest.raises(DataError, match=r"names classes of its own \(truck, ship, ...\).*read it with name = \"npz\""):
        read(tmp_path)
    np.savez(tmp_path / "cifar10.npz", classes=CIFAR10_CLASSES, **arrays)
    assert read(tmp_path).classes == CIFAR10_CLASSES


def test_white_is_of_arrays_alone(tmp_path: Path) -> None:
    write_binary_batches(tmp_path, 5)
    with pytest.raises(DataError, match=r"`white` is 15, and the files of CIFAR-10 in .* hold bytes; leave it out"):
        read_cifar10(DataSettings(name="cifar10", root=tmp_path, white=15), None)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CIFAR-10 in"):
        read(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()  # a broken copy: torchvision finds that the sums do not agree
    (folder / "data_batch_1").write_bytes(b"cut")
    told = set()
    for root in (tmp_path, folder):
        with pytest.raises(DataError, match="cannot read CIFAR-10") as caught:
            read(root)
        told.add(str(caught.value))
    (said,) = told
    assert "data_batch_1 differs from the published file (another MD5 sum), data_batch_2 is not there and 5 more" in said
    assert said.endswith("; copy the folder again, or set `download = true`")
    assert "download=True" not in said


@pytest.mark.slow
def test_the_whole_of_it_from_a_source_found_in_the_studys_folder(reference_data: Path) -> None:
    settings = DataSettings(
        name="cifar10_reference:load", root=reference_data / "cifar10", validation_images=1, calibration_images=1
    )
    data = load_data(settings, folder=BENCHMARKS)
    assert len(data.train) == 49_998
    assert np.bincount(data.test.labels).tolist() == [1_000] * 10
    means = data.train.images.mean((0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)  # as published
