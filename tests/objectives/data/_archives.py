"""Small data sets in the files that they come in."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from edgesearch.objectives.data import DataSet

RNG = np.random.default_rng(0)


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
    """The numbers of the images of each split: train, validation, calibration, test."""
    splits = (data.train, data.validation, data.calibration, data.test)
    return [set((s.images[:, 0, 0, 0] + 256 * s.images[:, 0, 1, 0].astype(int)).tolist()) for s in splits]


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


def write_binary_batches(root: Path, count: int) -> np.ndarray:
    """CIFAR-10's six binary batches of `count` images; their pixels (6, count, 32, 32, 3), labels 0, 1, ... 9, 0, ..."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (6, count, 32, 32, 3), dtype=np.uint8)
    for number, images in enumerate(pixels):
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        records = [bytes([k % 10]) + image.transpose(2, 0, 1).tobytes() for k, image in enumerate(images)]
        (folder / name).write_bytes(b"".join(records))
    return pixels
