"""Pictures in a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesearch.errors import DataError
from edgesearch.objectives.data._arrays import DARK
from edgesearch.objectives.data._folder_files import list_pictures, some, with_count
from edgesearch.objectives.data._pictures import Picture, UnreadableError, read_picture
from edgesearch.objectives.data._source import Images, RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["read_folder"]


def read_folder(settings: DataSettings, folder: Path | None) -> RawData:
    """Pictures in train/CLASS/ and test/CLASS/, or in CLASS/ alone: then test images are split off.

    Every format that Pillow decodes is read. Pictures of different sizes need `image_size`: the largest square in the middle is
    cut out and resized. One channel if every picture is grey, else three. `validation`/CLASS/ (or `val`, `valid`) is read with
    `own_validation`. Files that are no pictures, and with `skip_unreadable` damaged ones, are left out; the notes name them.
    """
    root = settings.root
    if root is None or not root.is_dir():
        raise DataError(f'data set "folder" needs `root`, an existing folder of pictures; got {root}')
    listing = list_pictures(root, settings.own_validation)
    decoded, unreadable = _decode([entry.path for entry in listing.entries], settings)
    lost = _unreadable_sentence(unreadable, root, len(listing.entries))
    if unreadable and not settings.skip_unreadable:
        them = "it" if len(unreadable) == 1 else "them"
        raise DataError(f"{lost}; repair or remove {them}, or set `skip_unreadable = true`")
    entries = [entry for entry in listing.entries if entry.path in decoded]
    listing.refuse_empty_classes(entries)
    images = _stack([decoded[entry.path].pixels for entry in entries], [entry.path for entry in entries])
    labels = np.array([entry.label for entry in entries], np.int64)
    counts = [sum(entry.part == part for entry in entries) for part in listing.roots]
    ends = np.cumsum(counts)
    names = [str(entry.path.relative_to(root)) for entry in entries]
    splits = {
        part: Split(images[end - count : end], labels[end - count : end], tuple(names[end - count : end]))
        for part, count, end in zip(listing.roots, counts, ends.tolist(), strict=True)
    }
    return RawData(
        listing.classes,
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        notes=(
            *listing.notes(),
            *([f"left out: {lost}"] if unreadable else []),
            *_picture_notes(list(decoded.values()), settings.white),
        ),
        preparation=_preparation(settings, is_deep=any(picture.top is not None for picture in decoded.values())),
    )


def _preparation(settings: DataSettings, *, is_deep: bool) -> str:
    steps, image_size = "each picture was turned as its EXIF orientation says", settings.image_size
    if is_deep:
        white = f"{settings.white:g}" if settings.white else "65535, or 1 for floats"
        steps += f"; values of deep grey were scaled to bytes: round(min(value, white) / white * 255), where white is {white}"
    if image_size is None:
        return steps
    return (
        f"{steps}; the largest square in its middle was cut out and resized to {image_size} x {image_size} pixels (Pillow's "
        "ImageOps.fit, bilinear, antialiased)"
    )


def _decode(paths: Sequence[Path], settings: DataSettings) -> tuple[dict[Path, Picture], dict[Path, str]]:
    """The pictures that can be read, and for the others the reason."""
    decoded: dict[Path, Picture] = {}
    unreadable: dict[Path, str] = {}
    for path in paths:
        try:
            decoded[path] = read_picture(path, settings.image_size, settings.white)
        except UnreadableError as error:
            unreadable[path] = str(error)
    return decoded, unreadable


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


def _unreadable_sentence(reasons: dict[Path, str], root: Path, total: int) -> str:
    named = some([f"{path.relative_to(root)}: {reason}" for path, reason in reasons.items()])
    return f"{len(reasons)} of {with_count(total)} cannot be read ({named})"


def _picture_notes(pictures: Sequence[Picture], white: float | None) -> list[str]:
    notes = []
    animated = sum(picture.frames > 1 for picture in pictures)
    if animated:
        notes.append(f"{with_count(animated)} with several frames or pages: the first is read")
    transparent = sum(picture.is_transparent for picture in pictures)
    if transparent:
        notes.append(
            f"{with_count(transparent)} with transparency: it is left out, and the colours below it are read as they are stored"
        )
    tops = [picture.top for picture in pictures if picture.top is not None]
    if tops:
        notes.append(f"{with_count(len(tops))} of deep grey: scaled to 8 bits")
    if tops and max(tops) < DARK:
        notes.append(
            f"the brightest picture of deep grey reaches {max(tops):.1%} of white, so most of the detail is lost; set "
            "`white` to the value that means white"
        )
    shallow = [picture for picture in pictures if picture.top is None]
    if shallow and all(picture.pixels.max() < DARK * 255 for picture in shallow):
        notes.append(
            f"{with_count(len(shallow))} of 8 bits or of colour, of which none reaches {DARK:.0%} of white, so that they are "
            "nearly black; of colour of 16 bits the upper 8 are read: where the brightest of them is a camera's 10 or 12 bits, "
            "scale it before it is stored"
        )
    if white is not None and not tops:
        notes.append(f"white = {white:g} is for deep grey, and no picture is: it was not used")
    clipped = sum(top > 1 for top in tops)
    if clipped:
        notes.append(f"{with_count(clipped)} with values above `white` = {white:g}: these became white")
    return notes
