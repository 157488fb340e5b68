"""The ways to show training images, by their names."""

from __future__ import annotations

from typing import Literal

__all__ = ["Augmentation", "Mix", "choose_augmentation", "has_strength", "mirrors_in_turn"]

Augmentation = Literal["none", "shift", "flip_crop", "alternate_flip", "cutout", "colour", "randaugment"]
Mix = Literal["none", "mixup", "cutmix"]


def choose_augmentation(asked: Augmentation | Literal["auto"], data_name: str) -> Augmentation:
    """What "auto" means for a data set: mirror images only where their class is known to survive it."""
    if asked != "auto":
        return asked
    return "flip_crop" if data_name == "cifar10" else "shift"


def mirrors_in_turn(kind: Augmentation) -> bool:
    """Whether each image is mirrored in every other epoch."""
    return kind in ("alternate_flip", "cutout", "colour", "randaugment")


def has_strength(kind: Augmentation | Literal["auto"]) -> bool:
    """Whether the kind has changes whose strength can be set."""
    return kind in ("colour", "randaugment")
