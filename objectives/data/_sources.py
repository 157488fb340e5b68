"""Where images come from: one reader for each kind of data set.

A reader returns `RawData`: what the files hold, checked, not split. It raises `DataError` for anything missing, unreadable or
inconsistent. A data set without test images of its own has `test_images` None; `load_data` then splits some off.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesearch.errors import DataError

__all__ = ["SOURCES", "RawData", "read_cifar10", "read_digits", "read_folder", "read_mnist", "read_npz"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True)
class RawData:
    """Images uint8 (N, H, W, C) with C 1 or 3, labels int64 (N,) that index `classes`."""

    classes: tuple[str, ...]
    train_images: Images
    train_labels: Labels
    test_images: Images | None = None
    test_labels: Labels | None = None


def read_digits(root: Path | None, download: bool, image_size: int | None) -> RawData:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8, 17 grey levels; they come with the library."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return RawData(tuple("0123456789"), images, digits.target.astype(np.int64))


def cache_folder(name: str) -> Path:
    """Where a data set that was asked for without a root is downloaded to."""
    return Path.home() / ".cache" / "edgesearch" / name


# --- MNIST ------------------------------------------------------------------------------------------------------------------


def read_mnist(root: Path | None, download: bool, image_size: int | None) -> RawData:
    """MNIST from its four IDX files, plain or gzip, in `root`, `root`/raw or `root`/MNIST/raw; downloaded if asked for."""
    folder = root or cache_folder("mnist")
    if _find_idx(folder, "train-images-idx3-ubyte") is None and download:
        _download("MNIST", folder)
    arrays = []
    for part, kind in (("train", "images-idx3"), ("train", "labels-idx1"), ("t10k", "images-idx3"), ("t10k", "labels-idx1")):
        name = f"{part}-{kind}-ubyte"
        path = _find_idx(folder, name)
        if path is None:
            raise DataError(
                f"no MNIST in {folder}: expected {name} or {name}.gz there; give the folder as `root`, or set `download = true`"
            )
        arrays.append(read_idx(path))
    train_images, train_labels, test_images, test_labels = arrays
    return RawData(
        tuple("0123456789"),
        as_images(train_images, "MNIST train images"),
        as_labels(train_labels, "MNIST train labels"),
        as_images(test_images, "MNIST test images"),
        as_labels(test_labels, "MNIST test labels"),
    )


def _find_idx(folder: Path, name: str) -> Path | None:
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def read_idx(path: Path) -> Images:
    """One IDX file of bytes, plain or gzip (Y. LeCun's format: magic 0 0 8 ndim, big-endian sizes, data)."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; expected an IDX file, as MNIST comes in") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if data.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} holds {data.size} bytes of data where its header {shape} promises {np.prod(shape)}")
    return data.reshape(shape).copy()


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------------


def read_cifar10(root: Path | None, download: bool, image_size: int | None) -> RawData:
    """CIFAR-10 in any of its forms.

    `root` holds torchvision's cifar-10-batches-py (its files are verified before they are read), the binary batches, or five
    train_K.webp and a test.webp of 100 x 100 images each with *_labels.npy; or it is an .npz, or holds a cifar10.npz.
    """
    folder = root or cache_folder("cifar10")
    if folder.suffix == ".npz":
        return _with_classes(read_npz(folder, download, image_size), CIFAR10_CLASSES)
    if (folder / "train_1.webp").is_file():
        return _read_webp_grids(folder)
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / "data_batch_1.bin").is_file():
            return _read_cifar_binary(place)
    if (folder / "cifar10.npz").is_file():
        return _with_classes(read_npz(folder / "cifar10.npz", download, image_size), CIFAR10_CLASSES)
    if download or (folder / "cifar-10-batches-py").is_dir():
        return _read_cifar_torchvision(folder, download)
    raise DataError(
        f"no CIFAR-10 in {folder}: expected cifar-10-batches-py, cifar-10-batches-bin, train_1.webp or cifar10.npz there; "
        "give the folder as `root`, or set `download = true`"
    )


def _read_cifar_binary(folder: Path) -> RawData:
    def batch(name: str) -> tuple[Images, Labels]:
        try:
            data = np.fromfile(folder / name, np.uint8)
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error}") from error
        if data.size == 0 or data.size % 3073:
            raise DataError(f"{folder / name} has {data.size} bytes, which is not a whole number of 3,073-byte records")
        records = data.reshape(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].astype(np.int64)

    train = [batch(f"data_batch_{k}.bin") for k in range(1, 6)]
    test_images, test_labels = batch("test_batch.bin")
    images, labels = np.concatenate([i for i, _ in train]), np.concatenate([k for _, k in train])
    return RawData(CIFAR10_CLASSES, images, labels, np.ascontiguousarray(test_images), test_labels)


def _read_webp_grids(folder: Path) -> RawData:
    def part(names: Sequence[str]) -> Images:
        return np.concatenate([_read_grid(folder / name) for name in names])

    train, test = part([f"train_{k}.webp" for k in range(1, 6)]), part(["test.webp"])
    labels = [as_labels(_load_npy(folder / f"{name}_labels.npy"), f"{folder / name}_labels.npy") for name in ("train", "test")]
    return RawData(CIFAR10_CLASSES, train, labels[0], test, labels[1])


def _read_grid(path: Path) -> Images:
    """The 10,000 images of 32 x 32 in a lossless picture of 100 x 100 tiles, row by row."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # 3200 x 3200 is meant; the size is checked below
    try:
        with Image.open(path) as picture:
            if picture.size != (3200, 3200):
                raise DataError(f"{path} is {picture.size[0]} x {picture.size[1]} pixels; expected 3200 x 3200")
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return pixels.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(10_000, 32, 32, 3)


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return loaded


def _read_cifar_torchvision(folder: Path, download: bool) -> RawData:
    if download:
        _download("CIFAR10", folder)
    from edgesearch.spaces import import_torchvision

    try:  # torchvision compares every file with its md5 sum before it opens it
        parts = [import_torchvision("datasets").CIFAR10(str(folder), train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(f"cannot read CIFAR-10 in {folder / 'cifar-10-batches-py'}: {error}") from error
    (train_images, train_labels), (test_images, test_labels) = ((p.data, np.asarray(p.targets, np.int64)) for p in parts)
    return RawData(CIFAR10_CLASSES, train_images, train_labels, test_images, test_labels)


def _download(name: str, folder: Path) -> None:
    from edgesearch.spaces import import_torchvision

    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(import_torchvision("datasets"), name)(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(f"could not download {name} to {folder}: {error}") from error


# --- arrays and folders -------------------------------------------------------------------------------------------------------


def read_npz(root: Path | None, download: bool, image_size: int | None) -> RawData:
    """A NumPy archive with train_images, train_labels and, if there are any, test_images, test_labels and classes (names).

    x_train, y_train, x_test and y_test do as well. Images: (N, H, W) or (N, H, W, 1 or 3), bytes or floats from 0 to 1. Labels:
    integers (N,) from 0. Without test arrays the test images are split off the training images.
    """
    if root is None:
        raise DataError('data set "npz" needs `root`, the path of an .npz file')
    arrays = _load_npz(root)
    train_images, train_labels = (_pick(arrays, root, *names) for names in _NPZ_TRAIN)
    if train_images is None or train_labels is None:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{root} holds {found}; expected train_images and train_labels (or x_train and y_train)")
    test_images, test_labels = (_pick(arrays, root, *names) for names in _NPZ_TEST)
    if (test_images is None) != (test_labels is None):
        raise DataError(f"{root} has only one of test_images and test_labels; give both or none")
    labels = as_labels(train_labels, f"{root} train_labels")
    classes = tuple(str(name) for name in arrays["classes"].ravel()) if "classes" in arrays else None
    if classes is None:
        classes = tuple(str(k) for k in range(int(labels.max()) + 1)) if labels.size else ()
    return RawData(
        classes,
        as_images(train_images, f"{root} train_images"),
        labels,
        None if test_images is None else as_images(test_images, f"{root} test_images"),
        None if test_labels is None else as_labels(test_labels, f"{root} test_labels"),
    )


_NPZ_TRAIN = (("train_images", "x_train"), ("train_labels", "y_train"))
_NPZ_TEST = (("test_images", "x_test"), ("test_labels", "y_test"))


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as opened:  # numpy leaves a file open that it cannot read
            loaded = np.load(opened, allow_pickle=False)
            if not hasattr(loaded, "files"):
                raise ValueError("it is a single array, not an .npz archive")
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged archive fails in zipfile, zlib, the header parser, ...: all mean the same here
        raise DataError(f"cannot read {path} as an .npz archive of plain arrays: {error}") from error


def _pick(arrays: dict[str, NDArray[Any]], path: Path, *names: str) -> NDArray[Any] | None:
    present = [name for name in names if name in arrays]
    if len(present) > 1:
        raise DataError(f"{path} has both {present[0]} and {present[1]}; keep one")
    return arrays[present[0]] if present else None


def _with_classes(raw: RawData, classes: tuple[str, ...]) -> RawData:
    return RawData(classes, raw.train_images, raw.train_labels, raw.test_images, raw.test_labels)


def read_folder(root: Path | None, download: bool, image_size: int | None) -> RawData:
    """Pictures in train/CLASS/ and test/CLASS/, or in CLASS/ alone: then test images are split off.

    Pictures of different sizes need `image_size`: the shorter side is brought to it and the middle is cut out. One channel if
    every picture is grey, else three.
    """
    if root is None or not root.is_dir():
        raise DataError(f'data set "folder" needs `root`, an existing folder of pictures; got {root}')
    has_train = (root / "train").is_dir()
    train_root = root / "train" if has_train else root
    classes = tuple(sorted(p.name for p in train_root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not classes:
        raise DataError(f"{train_root} has no folder for a class; expected {train_root}/CLASS/*.png or *.jpg")
    test_root = root / "test" if has_train and (root / "test").is_dir() else None
    if test_root is not None:
        unknown = sorted({p.name for p in test_root.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes))
        if unknown:
            raise DataError(f"{test_root} has the class {unknown[0]!r}, which {train_root} has not")
    train, test = _list_pictures(train_root, classes), _list_pictures(test_root, classes) if test_root else []
    pictures = [_read_picture(path, image_size) for path, _ in (*train, *test)]
    if not train:
        raise DataError(f"{train_root} has no pictures ({', '.join(sorted(_IMAGE_SUFFIXES))}) in its class folders")
    images = _stack(pictures, [path for path, _ in (*train, *test)])
    labels = np.array([label for _, label in (*train, *test)], np.int64)
    cut = len(train)
    return RawData(
        classes, images[:cut], labels[:cut], images[cut:] if test_root else None, labels[cut:] if test_root else None
    )


def _list_pictures(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in (sorted((root / name).rglob("*")) if (root / name).is_dir() else ())
        if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file()
    ]


def _read_picture(path: Path, image_size: int | None) -> Images:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
            if image_size is not None:
                picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the picture {path}: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _stack(pictures: Sequence[Images], paths: Sequence[Path]) -> Images:
    first = pictures[0]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape[:2] != first.shape[:2]:
            raise DataError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels but {paths[0]} is {first.shape[1]} x "
                f"{first.shape[0]}; set `image_size` to bring all pictures to one size"
            )
    if any(picture.shape[2] == 3 for picture in pictures):
        pictures = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
    return np.stack(pictures)


# --- checks -------------------------------------------------------------------------------------------------------------------


def as_images(array: NDArray[Any], where: str) -> Images:
    """`array` as uint8 (N, H, W, C); DataError with `where` in it if it is something else."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise DataError(f"{where} has shape {array.shape}; expected (images, height, width) or (images, height, width, 1 or 3)")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{where} holds {array.dtype}; expected bytes, or floats from 0 to 1")
    top = 1 if array.dtype.kind == "f" else 255
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high <= top):  # NaN fails both
        raise DataError(f"{where} ({array.dtype}) goes from {low} to {high}; expected 0 to {top}, or bytes")
    return np.rint(array * (255 / top)).astype(np.uint8)


def as_labels(array: NDArray[Any], where: str) -> Labels:
    """`array` as int64 (N,); DataError with `where` in it if it is something else."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{where} is {array.dtype} of shape {array.shape}; expected integers of shape (images,)")
    return array.astype(np.int64)


SOURCES: dict[str, Callable[[Path | None, bool, int | None], RawData]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "npz": read_npz,
    "folder": read_folder,
}
