"""Starting weights: torchvision's ImageNet weights, or a file of the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.spaces._candidate import TORCHVISION_STUDENTS, Student
from edgesearch.spaces._torchvision import import_torchvision
from edgesearch.spaces._weights_file import read_weights, without_prefix

#: Batch-norm's count of batches: no part of what a trained network computes, and absent from old files.
_COUNTER = "num_batches_tracked"
#: Tensors that a sentence names before it says how many more there are.
_LISTED = 4


def weights_fingerprint(path: str) -> str:
    """SHA-256 of a weights file; "" for no file. Raises SpaceError when it cannot be read."""
    if path in ("", "imagenet"):
        return ""
    try:
        return file_fingerprint(Path(path))
    except OSError as error:
        raise SpaceError(f"weights {path!r} cannot be read ({error.strerror}); expected a file or 'imagenet'") from error


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file, read anew only when its size or time of change is another. Raises OSError."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_weights(model: nn.Module, student: Student, *, require_all: bool = False) -> tuple[str, ...]:
    """Put the student's starting weights into `model`; returns the names left at their random start.

    Layers whose shape differs (another number of classes, a stem for other images) keep their start; a first convolution of
    other image channels (grey images) is given the sum over the file's three. Raises SpaceError when nothing fits, and for
    values that are not finite.

    With `require_all` the network is taken as trained: SpaceError names every tensor that is missing or of another shape, and
    those that the network has no place for.
    """
    if student.weights == "":
        if require_all:
            raise SpaceError(
                f"{student.architecture} is to be taken as trained, but has no weights; give weights = 'FILE', or train it"
            )
        return ()
    own = model.state_dict()
    source = _imagenet(student) if student.weights == "imagenet" else without_prefix(read_weights(Path(student.weights)), own)
    taken = {name: given for name in own if name in source and (given := _fitted(source[name], own[name])) is not None}
    if not taken:
        raise SpaceError(
            f"weights {student.weights!r} have no tensor that fits {student.architecture} "
            f"(first names: {', '.join(list(source)[:3]) or 'none'}; expected {', '.join(list(own)[:3])})"
        )
    _refuse_unusable_values(source, own, taken, student)
    if require_all:
        _refuse_others(source, own, taken, student)
    model.load_state_dict(own | taken)
    return tuple(name for name in own if name not in taken)


def _fitted(given: Tensor, own: Tensor) -> Tensor | None:
    """The given tensor in the shape and type of the network's; None where it does not fit."""
    if given.shape == own.shape:
        return given.to(own.dtype)
    if own.ndim == 4 and own.shape[1] == 1 and given.shape == (len(own), 3, *own.shape[2:]):
        return given.float().sum(dim=1, keepdim=True).to(own.dtype)
    return None


def _refuse_unusable_values(
    source: Mapping[str, Tensor], own: Mapping[str, Tensor], taken: Mapping[str, Tensor], student: Student
) -> None:
    for name, tensor in taken.items():
        if own[name].is_floating_point() and not source[name].is_floating_point():
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds {str(source[name].dtype).removeprefix('torch.')}; expected floats "
                "(weights that were not quantized)"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise SpaceError(
                f"weights {student.weights!r}: {name} holds values that are not finite (NaN or infinite); they come from a "
                "training that failed, give those of an earlier epoch"
            )


def _refuse_others(
    source: Mapping[str, Tensor], own: Mapping[str, Tensor], taken: Mapping[str, Tensor], student: Student
) -> None:
    """SpaceError unless the source has exactly the network's tensors. Batch counters decide nothing and may be left out."""
    problems = []
    other_shape = [name for name in own if name in source and name not in taken]
    if other_shape:
        shapes = [f"{name} is {_shape(source[name])} where {_shape(own[name])} is expected" for name in other_shape]
        problems.append(_some(shapes))
    missing = [name for name in own if name not in source and not name.endswith(_COUNTER)]
    if missing:
        problems.append(f"there is no {_some(missing)}")
    extra = [name for name in source if name not in own and not name.endswith(_COUNTER)]
    if extra:
        problems.append(f"the network has no {_some(extra)}")
    if problems:
        raise SpaceError(
            f"weights {student.weights!r} are not those of this {student.architecture}, which is to be taken as trained: "
            f"{'; '.join(problems)}; give the weights of this very network and these classes, or train it (trained = false)"
        )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _imagenet(student: Student) -> Mapping[str, Tensor]:
    if student.architecture not in TORCHVISION_STUDENTS:
        known = ", ".join(TORCHVISION_STUDENTS)
        raise SpaceError(f"weights = 'imagenet' for {student.architecture!r}: torchvision has them for {known} only")
    models: Any = import_torchvision("models")
    try:
        weights = models.get_model_weights(student.architecture).DEFAULT
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise SpaceError(
            f"ImageNet weights of {student.architecture} could not be downloaded ({error}); "
            "give weights = 'FILE' with a copy of them, or weights = ''"
        ) from error
    return state
