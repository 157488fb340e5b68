"""torchvision's ImageNet weights: which file an architecture's are, where it lies, and how it comes there.

Of an architecture there is one file, whatever torchvision calls its best today, so that "imagenet" means the same weights for
as long as a study lives. The file's name holds the start of its SHA-256, so that one from anywhere can be trusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesearch.errors import SpaceError
from edgesearch.files import expanded, probing
from edgesearch.plugins import import_torchvision
from edgesearch.spaces._candidate import Student
from edgesearch.spaces._fetch import FetchFailed, fetch
from edgesearch.spaces._fingerprint import file_fingerprint, weights_fingerprint
from edgesearch.spaces._weights_file import read_weights

__all__ = ["IMAGENET", "fetch_imagenet", "find_imagenet", "has_imagenet_weights", "imagenet_shapes", "seems_of_imagenet"]

#: `weights` of a student that starts from them.
IMAGENET = "imagenet"
#: Classes of ImageNet.
_CLASSES = 1000
#: A folder where the files are looked for first, and which they are downloaded to.
FOLDER_VARIABLE = "EDGESEARCH_WEIGHTS"
#: torchvision's name of the weights of each architecture.
_RELEASES = {
    "mobilenet_v2": "IMAGENET1K_V2",
    "resnet18": "IMAGENET1K_V1",
    "resnet50": "IMAGENET1K_V2",
    "squeezenet1_0": "IMAGENET1K_V1",
    "squeezenet1_1": "IMAGENET1K_V1",
}


@dataclass(frozen=True)
class _Published:
    """A file of weights on the network; its name ends in the start of its SHA-256: resnet18-f37072fd.pth."""

    url: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        return self.name.rpartition(".")[0].rpartition("-")[2]


def _published(architecture: str) -> _Published:
    if architecture not in _RELEASES:
        raise SpaceError(
            f"weights = 'imagenet' for {architecture!r}: torchvision has them for {', '.join(_RELEASES)} only; give a file, or "
            "give weights to these students alone: [space.student.NAME]"
        )
    return _Published(_urls()[architecture])


@lru_cache(maxsize=1)
def _urls() -> Mapping[str, str]:
    models: Any = import_torchvision("models")
    return {name: models.get_model_weights(name)[release].url for name, release in _RELEASES.items()}


def has_imagenet_weights(student: Student) -> bool:
    """Whether a student starts from ImageNet weights: by "imagenet", or by a file with the name of torchvision's."""
    if student.weights == IMAGENET:
        return True
    return student.weights.endswith(".pth") and Path(student.weights).name in {_Published(url).name for url in _urls().values()}


def seems_of_imagenet(student: Student, classes: int) -> bool:
    """Whether a student's file of any name probably holds ImageNet weights: its classifier tells 1000 classes apart.

    `classes` is how many the student has; of 1000 it takes the classifier over, and where that comes from is not known. Raises
    SpaceError for a file that cannot be read.
    """
    if not student.weights or has_imagenet_weights(student) or classes == _CLASSES:
        return False
    return _has_classifier(student.weights, weights_fingerprint(student.weights))


@lru_cache(maxsize=64)
def _has_classifier(path: str, fingerprint: str) -> bool:
    """Whether a layer has as many outputs as ImageNet has classes; no layer within the usual networks has."""
    return any(tensor.ndim >= 2 and len(tensor) == _CLASSES for tensor in read_weights(Path(path)).values())


def find_imagenet(architecture: str) -> Path | None:
    """The file of an architecture's weights on this machine, its checksum verified; None where it is not there.

    Raises SpaceError for a file that is damaged, and an architecture that has none.
    """
    published = _published(architecture)
    for folder in _folders():
        path = folder / published.name
        with probing("weights", SpaceError):
            is_there = path.is_file()
        if is_there:
            try:
                found = file_fingerprint(path)
            except OSError as error:
                raise SpaceError(f"weights {str(path)!r} cannot be read: {error.strerror or error}") from error
            if not found.startswith(published.sha256):
                raise SpaceError(
                    f"weights {str(path)!r} are damaged: their SHA-256 begins with {found[: len(published.sha256)]}, expected "
                    f"{published.sha256}; remove the file, or copy it again from {published.url}"
                )
            return path
    return None


def fetch_imagenet(architecture: str, note: Callable[[str], object] = lambda line: None) -> Path:
    """The file of an architecture's weights, downloaded where it is not on this machine. Raises SpaceError if it cannot be."""
    found = find_imagenet(architecture)
    if found is not None:
        return found
    published, folder = _published(architecture), _folders()[0]
    try:
        fetch(published.url, folder / published.name, sha256=published.sha256, note=note)
    except FetchFailed as error:
        raise SpaceError(
            f"the ImageNet weights of {architecture} could not be downloaded ({error}); put a copy of {published.name} into "
            f"{folder}, or into a folder that {FOLDER_VARIABLE} names, or give weights = 'FILE'"
        ) from error
    return folder / published.name


def _folders() -> tuple[Path, ...]:
    """Where files are looked for; the first is downloaded to. The last is where torch.hub keeps what it downloads."""
    own = os.environ.get(FOLDER_VARIABLE, "")
    return *([expanded(own, FOLDER_VARIABLE, SpaceError)] if own else []), Path(torch.hub.get_dir()) / "checkpoints"


def imagenet_shapes(architecture: str) -> Mapping[str, Tensor]:
    """The tensors of an architecture's weights by name, without their values (on torch's "meta" device)."""
    _published(architecture)
    models: Any = import_torchvision("models")
    with torch.device("meta"):
        state: Mapping[str, Tensor] = models.get_model(architecture).state_dict()
    return state
