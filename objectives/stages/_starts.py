"""How a training starts from weights, told before it does."""

from __future__ import annotations

from pathlib import Path

from edgesearch.objectives.data import Normalisation, imagenet_normalisation
from edgesearch.spaces import Student, build, check_weights, has_imagenet_weights, seems_of_imagenet

__all__ = ["check_start", "likely_normalisation_warning", "normalisation_warning"]


def check_start(student: Student, *, channels: int, classes: int, trained: bool = False, folder: Path | None = None) -> None:
    """Raise SpaceError where the student's weights do not fit it; `trained`: where they are not all of its weights.

    Nothing is downloaded: of ImageNet weights that are not on this machine the shapes are compared.
    """
    if student.weights:
        check_weights(build(student, channels=channels, classes=classes, folder=folder), student, require_all=trained)


def normalisation_warning(student: Student, normalisation: Normalisation, channels: int) -> str:
    """A sentence where a student starts from ImageNet weights and sees pixels on another scale than they do; "" otherwise."""
    expected = imagenet_normalisation(channels)
    if not has_imagenet_weights(student) or normalisation == expected:
        return ""
    return (
        f"{student.name} starts from weights that were trained on ImageNet with mean {list(expected.mean)} and std "
        f"{list(expected.std)}, but sees images with mean {list(normalisation.mean)} and std {list(normalisation.std)}; "
        'write normalisation = "imagenet" into [data]'
    )


def likely_normalisation_warning(student: Student, normalisation: Normalisation, *, channels: int, classes: int) -> str:
    """A sentence where a file of the user's own is probably of ImageNet, and pixels are on the scale of no choice; else "".

    Raises SpaceError for a file that cannot be read.
    """
    if normalisation != Normalisation() or not seems_of_imagenet(student, classes):
        return ""
    expected = imagenet_normalisation(channels)
    return (
        f"{student.name} starts from {student.weights}, whose classifier of 1000 classes makes it likely that they are of "
        f"ImageNet, with mean {list(expected.mean)} and std {list(expected.std)}, but it sees images with mean "
        f'{list(normalisation.mean)} and std {list(normalisation.std)}; write normalisation = "imagenet" into [data], or what '
        "they were trained with"
    )
