"""Arrays as images and labels, and NumPy archives of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesearch.errors import DataError
from edgesearch.objectives.data._source import Images, Labels, RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["DARK", "as_images", "as_labels", "dark_note", "read_npz"]

#: The brightest value of all images is expected to reach this share of white.
DARK = 0.25
#: White of a byte.
_BYTE = 255

#: Names of the images and the labels of each part, those of this program first, then Keras's.
_TRAIN = (("train_images", "x_train"), ("train_labels", "y_train"))
_VALIDATION = (("validation_images", "x_val"), ("validation_labels", "y_val"))
_TEST = (("test_images", "x_test"), ("test_labels", "y_test"))
#: All that a data set is made of.
_USED = {name for part in (_TRAIN, _TEST, _VALIDATION) for names in part for name in names} | {"classes"}


def read_npz(settings: DataSettings, folder: Path | None) -> RawData:
    """A NumPy archive with train_images, train_labels and, if there are any, test_images, test_labels and classes (names).

    x_train, y_train, x_test and y_test do as well. Images: (N, H, W) or (N, H, W, 1 or 3), bytes or floats from 0 to 1. Labels:
    integers (N,) from 0. Without test arrays the test images are split off the training images. validation_images and
    validation_labels (x_val, y_val) are read with `own_validation`.
    """
    path = settings.root
    if path is None:
        raise DataError('data set "npz" needs `root`, the path of an .npz file')
    arrays = _load_archive(path)
    train, test = _part(arrays, path, _TRAIN, settings.white), _part(arrays, path, _TEST, settings.white)
    if train is None:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{path} holds {found}; expected train_images and train_labels (or x_train and y_train)")
    validation = _part(arrays, path, _VALIDATION, settings.white) if settings.own_validation else None
    classes = _class_names(arrays["classes"], path) if "classes" in arrays else _numbered_classes(train.labels, path)
    notes = (*dark_note(train.images), *_notes(arrays, settings, path))
    scaled = (_scaling(arrays[name], settings.white) for name in _TRAIN[0] if name in arrays)
    return RawData(classes, train, test, validation, notes=notes, preparation=next(scaled, ""))


def _scaling(images: NDArray[Any], white: float | None) -> str:
    """What `as_images` does to their values, for whoever prepares more of them; "" where they are taken as they are."""
    if images.dtype == np.bool_:
        return "true was made 255, false 0"
    top = white or (1 if images.dtype.kind == "f" else _BYTE)
    if top == _BYTE or (images.dtype == np.uint8 and top > _BYTE):
        return "values were rounded to bytes" if images.dtype.kind == "f" else ""
    return f"values from 0 to {top:g} were scaled to bytes: round(min(value, {top:g}) / {top:g} * 255)"


def _notes(arrays: dict[str, NDArray[Any]], settings: DataSettings, path: Path) -> list[str]:
    """Sentences on what is not read, or not as the settings have it."""
    notes = []
    images = [arrays[name] for name in (*_TRAIN[0], *_TEST[0]) if name in arrays]
    if settings.white is not None and settings.white > _BYTE and any(array.dtype == np.uint8 for array in images):
        notes.append(f"white = {settings.white:g} is for deeper values: the bytes of {path.name} are taken as they are")
    if unused := sorted(set(arrays) - _USED):
        notes.append(f"not read: {', '.join(unused)} of {path.name}, which are no arrays that a data set is made of")
    if not settings.own_validation and any(name in arrays for name in _VALIDATION[0]):
        notes.append(
            f"the validation images in {path.name} are not read; set `own_validation = true` to validate on them instead of on "
            "some of the training images"
        )
    return notes


def _class_names(array: NDArray[Any], path: Path) -> tuple[str, ...]:
    if array.ndim != 1:
        raise DataError(f"{path} classes has shape {array.shape}; expected one name for each class, in the order of the labels")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in array)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} classes holds bytes that are not UTF-8 ({error.object!r}); store the names as text") from error


def _numbered_classes(labels: Labels, path: Path) -> tuple[str, ...]:
    """The classes of labels without names: as many as the largest says, of which each needs an image."""
    largest = int(labels.max()) if len(labels) else -1
    if largest >= len(labels) > 0:
        raise DataError(
            f"{path} has a training label {largest}, but only {len(labels)} training images, and no `classes`; number the "
            "classes from 0 without gaps: names, labels = numpy.unique(labels, return_inverse=True)"
        )
    return tuple(map(str, range(largest + 1)))


def _part(
    arrays: dict[str, NDArray[Any]], path: Path, names: tuple[tuple[str, ...], tuple[str, ...]], white: float | None
) -> Split | None:
    present = [[name for name in of_one if name in arrays] for of_one in names]
    for same in present:
        if len(same) > 1:
            raise DataError(f"{path} has both {same[0]} and {same[1]}; keep one")
    images, labels = present
    if not images and not labels:
        return None
    if not images or not labels:
        raise DataError(f"{path} has only one of {names[0][0]} and {names[1][0]}; give both or none")
    return Split(
        as_images(arrays[images[0]], f"{path} {images[0]}", white), as_labels(arrays[labels[0]], f"{path} {labels[0]}")
    )


def _load_archive(path: Path) -> dict[str, NDArray[Any]]:
    def refuse(what: str) -> DataError:
        return DataError(f"cannot read {path} as an .npz archive of plain arrays: {what}")

    try:
        with path.open("rb") as opened:  # numpy leaves a file open that it cannot read
            start = opened.read(6)
            opened.seek(0)
            if start.startswith(b"\x93NUMPY"):
                raise refuse("it is a single array; write images and labels with numpy.savez")
            if not start.startswith(b"PK"):
                raise refuse("it is empty" if not start else "it is not one; write it with numpy.savez")
            loaded = np.load(opened, allow_pickle=False)
            arrays: dict[str, NDArray[Any]] = {}
            for name in loaded.files:
                try:
                    arrays[name] = loaded[name]
                except ValueError as error:
                    if "pickle" not in str(error):
                        raise
                    raise refuse(
                        f"{name} holds Python objects; store numbers in one array of one shape, such as numpy.stack(images)"
                    ) from error
                if name in _USED and not isinstance(arrays[name], np.ndarray):  # numpy gives the bytes of other files
                    raise refuse(f"its member {name} is no .npy array; write it with numpy.savez")
            return arrays
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"the arrays of {path} do not fit into this machine's memory ({str(error) or 'it gave no more'}); store fewer or "
            "smaller images, as bytes, or use a machine with more memory"
        ) from error
    except OSError as error:
        raise refuse(error.strerror or "it is damaged") from error
    except Exception as error:  # a damaged archive fails in zipfile, zlib, the header parser, ...: all mean the same here
        raise refuse("it is damaged or incomplete; write or copy it again") from error


def as_images(array: NDArray[Any], where: str, white: float | None = None) -> Images:
    """`array` as uint8 (N, H, W, C); DataError with `where` in it if it is something else.

    Floats are from 0 (black) to `white`, 1 if left out; integers from 0 to `white`, 255 if left out. Bytes are taken as they
    are where `white` is more than they can hold. (N, H, W) is one channel.
    """
    array = _with_channels(array, where)
    if array.dtype == np.uint8 and (white is None or white >= _BYTE):
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{where} holds {array.dtype}; expected bytes, or floats from 0 to 1")
    is_float = array.dtype.kind == "f"
    top = white or (1 if is_float else 255)
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # which holds every `white`
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high <= top):  # NaN fails both
        advice = _range_advice(float(low), float(high), top, is_bytes=array.dtype == np.uint8)
        raise DataError(f"{where} ({array.dtype}) goes from {low:g} to {high:g}; {advice}")
    if array.dtype == np.uint8:  # by a table, since eight times the memory would be needed to multiply
        scaled: Images = np.rint(np.minimum(np.arange(256), top) * (255 / top)).astype(np.uint8)[array]
        return scaled
    return np.rint(array * (255 / top)).astype(np.uint8)


def dark_note(images: Images) -> list[str]:
    """A sentence on images (N, H, W, C) of which none is anywhere near white; none for others."""
    brightest = int(images.max()) if images.size else 255
    if brightest >= DARK * 255:
        return []
    return [
        f"the brightest value of all training images is {brightest / 255:.1%} of white, so that they are nearly black; set "
        "`white` to the number that means white"
    ]


def _range_advice(low: float, high: float, top: float, *, is_bytes: bool) -> str:
    expected = f"expected 0 to {top:g}"
    if is_bytes:
        return f"{expected}; leave `white` out, or set it to the number that means white"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{expected}, all finite; remove the images that are not"
    if low < 0:
        return f"{expected}: these were normalised already, or hold signed numbers; store the images as they were, in bytes"
    if top <= 1 and high <= 255:
        return f"{expected}; if 255 is white, store bytes (images.round().astype('uint8')) or set `white = 255`"
    return f"{expected}, or bytes; set `white` to the number that means white"


def _with_channels(array: NDArray[Any], where: str) -> NDArray[Any]:
    """The array as (N, H, W, C)."""
    shape = array.shape
    if array.ndim == 3 and 0 not in shape[1:]:
        return array[..., None]
    if array.ndim == 4 and shape[3] in (1, 3) and 0 not in shape[1:]:
        return array
    expected = "expected (images, height, width) or (images, height, width, 1 or 3)"
    advice = ""
    if array.ndim == 4 and shape[1] in (1, 3):
        advice = "; the channels come first here: store images.transpose(0, 2, 3, 1)"
    elif array.ndim == 4 and shape[3] == 4:
        advice = "; leave the fourth channel (transparency) out: store images[..., :3]"
    elif array.ndim == 2:
        advice = "; these are rows of pixels: store images.reshape(-1, HEIGHT, WIDTH) or with (..., 3) for colours"
    raise DataError(f"{where} has shape {shape}; {expected}{advice}")


def as_labels(array: NDArray[Any], where: str) -> Labels:
    """`array` as int64 (N,); DataError with `where` in it if it is something else."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and array.dtype.kind in "iu":
        if array.dtype.kind == "u" and len(array) and int(array.max()) > np.iinfo(np.int64).max:
            raise DataError(f"{where} has a label {int(array.max())}; expected the number of each image's class from 0")
        return array.astype(np.int64)
    expected = f"{where} is {array.dtype} of shape {array.shape}; expected integers of shape (images,)"
    raise DataError(expected + _labels_advice(array))


def _labels_advice(array: NDArray[Any]) -> str:
    if array.dtype.kind in "US":
        return "; number the classes from 0, and store their names as `classes`"
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
        return ", the number of each image's class from 0"
    if array.ndim == 1 and array.dtype.kind == "f" and not np.isfinite(array).all():
        return "; some are not finite: give each image its class"
    if array.ndim == 1:
        whole = array.dtype.kind == "b" or bool(np.array_equal(array, np.rint(array)))
        return "; store labels.astype('int64')" if whole else "; these are measurements, not classes"
    is_one_hot = bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())
    if is_one_hot:
        return "; these are one-hot: store labels.argmax(axis=1)"
    return "; one class for each image: rows that name several, or none, cannot be used"
