"""Starting weights: torchvision's ImageNet weights, or a file of the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.spaces._candidate import TORCHVISION_STUDENTS, Student
from edgesearch.spaces._torchvision import import_torchvision

_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")


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


def load_weights(model: nn.Module, student: Student) -> tuple[str, ...]:
    """Put the student's starting weights into `model`; returns the names left at their random start.

    Layers whose shape differs (another number of classes, a stem for other images) keep their start; a first convolution of
    other image channels (grey images) is given the sum over the file's three. Raises SpaceError when nothing fits.
    """
    if student.weights == "":
        return ()
    source = _imagenet(student) if student.weights == "imagenet" else _read(Path(student.weights))
    own = model.state_dict()
    taken: dict[str, Tensor] = {}
    for name, tensor in own.items():
        given = source.get(name)
        if given is None:
            continue
        if given.shape == tensor.shape:
            taken[name] = given.to(tensor.dtype)
        elif tensor.ndim == 4 and tensor.shape[1] == 1 and given.shape == (len(tensor), 3, *tensor.shape[2:]):
            taken[name] = given.float().sum(dim=1, keepdim=True).to(tensor.dtype)
    if not taken:
        raise SpaceError(
            f"weights {student.weights!r} have no tensor that fits {student.architecture} "
            f"(first names: {', '.join(list(source)[:3]) or 'none'}; expected {', '.join(list(own)[:3])})"
        )
    model.load_state_dict(own | taken)
    return tuple(name for name in own if name not in taken)


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


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
                return state
            raise ValueError("it does not hold a state_dict")
    except Exception as error:  # each format has its own exceptions for files that are not of it
        raise SpaceError(f"weights {str(path)!r} cannot be read: {error}") from error
    raise SpaceError(f"weights {str(path)!r} end in {path.suffix!r}; expected one of {', '.join(_SUFFIXES)}")
