"""Every form a data set may come in is read, and a damaged one is named."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgesearch.errors import DataError
from edgesearch.objectives.data._dataset import DataSettings, load_data
from edgesearch.objectives.data._sources import read_cifar10, read_folder, read_idx, read_mnist, read_npz

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3": RNG.integers(0, 256, (60, 28, 28)),
        "train-labels-idx1": np.arange(60) % 10,
        "t10k-images-idx3": RNG.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1": np.arange(20) % 10,
    }
    for name, array in arrays.items():
        write_idx(folder / f"{name}-ubyte{suffix}", array)
    return arrays


@pytest.mark.parametrize(("place", "suffix"), [("", ".gz"), ("raw", ""), ("MNIST/raw", "")])
def test_mnist_is_read_from_plain_and_packed_files(tmp_path: Path, place: str, suffix: str) -> None:
    arrays = write_mnist(tmp_path / place, suffix)
    raw = read_mnist(tmp_path, False, None)
    assert np.array_equal(raw.train_images[..., 0], arrays["train-images-idx3"])
    assert raw.test_labels is not None
    assert np.array_equal(raw.test_labels, arrays["t10k-labels-idx1"])


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
        ("empty", b"", "nothing"),
        ("packed.gz", gzip.compress(good.read_bytes())[:-9], "cannot read"),
        ("plain.gz", b"not gzip at all", "cannot read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            read_idx(tmp_path / name)
    with pytest.raises(DataError, match="no MNIST in"):
        read_mnist(tmp_path, False, None)


def test_cifar10_from_binary_batches(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (6, 5, 32, 32, 3), dtype=np.uint8)
    for number, images in enumerate(pixels):
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        records = [bytes([k]) + image.transpose(2, 0, 1).tobytes() for k, image in enumerate(images)]
        (folder / name).write_bytes(b"".join(records))
    raw = read_cifar10(tmp_path, False, None)
    assert np.array_equal(raw.train_images, pixels[:5].reshape(25, 32, 32, 3))
    assert raw.train_labels.tolist() == [0, 1, 2, 3, 4] * 5
    (folder / "test_batch.bin").write_bytes(b"12345")
    with pytest.raises(DataError, match="whole number"):
        read_cifar10(tmp_path, False, None)


def test_cifar10_from_an_npz_has_its_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((20, 32, 32, 3), np.uint8), y_train=np.arange(20)[:, None] % 10)
    for root in (tmp_path, tmp_path / "cifar10.npz"):
        assert read_cifar10(root, False, None).classes[:2] == ("airplane", "automobile")


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CIFAR-10 in"):
        read_cifar10(tmp_path, False, None)
    (tmp_path / "cifar-10-batches-py").mkdir()  # a broken copy: torchvision finds that the sums do not agree
    with pytest.raises(DataError, match="cannot read CIFAR-10"):
        read_cifar10(tmp_path, False, None)
    (tmp_path / "train_1.webp").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"cannot read .*train_1\.webp"):
        read_cifar10(tmp_path, False, None)


@pytest.mark.slow
def test_the_whole_of_cifar10(reference_data: Path) -> None:
    raw = read_cifar10(reference_data / "cifar10", False, None)
    assert raw.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(raw.train_labels).tolist() == [5_000] * 10
    means = raw.train_images.mean((0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)  # as published


@pytest.mark.parametrize("scale", [255, 1.0])
def test_arrays_of_bytes_and_of_floats(tmp_path: Path, scale: float) -> None:
    pixels = RNG.integers(0, 256, (30, 5, 6), dtype=np.uint8)
    stored = pixels if scale == 255 else (pixels / 255).astype(np.float32)
    np.savez(tmp_path / "a.npz", train_images=stored, train_labels=np.arange(30) % 3, classes=np.array(["x", "y", "z"]))
    raw = read_npz(tmp_path / "a.npz", False, None)
    assert np.array_equal(raw.train_images[..., 0], pixels)
    assert raw.classes == ("x", "y", "z")
    assert raw.test_images is None


def test_archives_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}], dtype=object), train_labels=np.zeros(1, np.int64))
    whole = tmp_path / "whole.npz"
    np.savez(whole, train_images=np.zeros((100, 8, 8), np.uint8), train_labels=np.zeros(100, np.int64))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
    for name in ("text.npz", "array.npy", "objects.npz", "cut.npz", "missing.npz"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            read_npz(tmp_path / name, False, None)
    with pytest.raises(DataError, match="needs `root`"):
        read_npz(None, False, None)


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)


def test_folders_of_pictures(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        for name in ("ant", "bee"):
            for k in range(count):
                picture(tmp_path / part / name / f"{k}.png")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not a picture")
    raw = read_folder(tmp_path, False, None)
    assert raw.classes == ("ant", "bee")
    assert raw.train_images.shape == (12, 5, 6, 1)
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "train" / "bee" / "3.png") as opened:
        assert np.array_equal(raw.train_images[9, ..., 0], np.asarray(opened))


def test_class_folders_alone_colours_and_sizes_mixed(tmp_path: Path) -> None:
    for k in range(20):
        picture(tmp_path / "ant" / f"{k}.png", "L", (9, 7))
        picture(tmp_path / "bee" / f"{k}.jpg", "RGB", (7, 12))
    with pytest.raises(DataError, match="set `image_size`"):
        read_folder(tmp_path, False, None)
    data = load_data(DataSettings(name="folder", root=tmp_path, image_size=8))
    assert data.train.images.shape[1:] == (8, 8, 3)
    assert len(data.test) == 8


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="needs `root`"):
            read_folder(root, False, None)
    with pytest.raises(DataError, match="no folder for a class"):
        read_folder(tmp_path, False, None)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(DataError, match="no pictures"):
        read_folder(tmp_path, False, None)
    picture(tmp_path / "train" / "ant" / "0.png")
    picture(tmp_path / "test" / "wasp" / "0.png")
    with pytest.raises(DataError, match="'wasp'"):
        read_folder(tmp_path, False, None)
    (tmp_path / "test" / "wasp").rename(tmp_path / "test" / "ant")
    (tmp_path / "train" / "ant" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"cannot read the picture .*1\.png"):
        read_folder(tmp_path, False, None)
