"""Archives of arrays for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgesearch.objectives.data import DataSet


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
