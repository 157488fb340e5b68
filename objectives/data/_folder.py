"""Pictures in a folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesearch.errors import DataError
from edgesearch.objectives.data._pictures import Picture, UnreadableError, picture_suffixes, read_picture
from edgesearch.objectives.data._source import Images, RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["read_folder"]

#: Left by operating systems and disk stations beside pictures; so is every name that starts with a dot (._x.jpg, .DS_Store).
_LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"})
_VALIDATION_NAMES = ("validation", "val", "valid")
_PART_NAMES = frozenset({"train", "training", "test", "testing", *_VALIDATION_NAMES})
#: Names that a sentence lists before it says "and N more".
_LISTED = 5
#: The brightest deep grey picture is expected to reach this share of white.
_DARK = 0.25


@dataclass
class _Files:
    """The pictures of one part, in order, and what lies beside them."""

    pictures: list[tuple[Path, int]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # suffix -> files that are no pictures


def read_folder(settings: DataSettings, folder: Path | None) -> RawData:
    """Pictures in train/CLASS/ and test/CLASS/, or in CLASS/ alone: then test images are split off.

    Every format that Pillow decodes is read. Pictures of different sizes need `image_size`: the largest square in the middle is
    cut out and resized. One channel if every picture is grey, else three. `validation`/CLASS/ (or `val`, `valid`) is read with
    `own_validation`. Files that are no pictures, and with `skip_unreadable` damaged ones, are left out; the notes name them.
    """
    root = settings.root
    if root is None or not root.is_dir():
        raise DataError(f'data set "folder" needs `root`, an existing folder of pictures; got {root}')
    roots = _part_roots(root, settings.own_validation)
    classes = tuple(p.name for p in _folders(roots["train"]))
    if not classes:
        raise DataError(f"{roots['train']} has no folder for a class; expected {roots['train']}/CLASS/*.png or *.jpg")
    files = {part: _list_files(place, classes, roots["train"]) for part, place in roots.items()}
    skipped = sum((of_part.skipped for of_part in files.values()), Counter[str]())
    if not files["train"].pictures:
        raise DataError(f"{roots['train']} has no pictures in its class folders{_only(skipped)}")
    entries = [(part, path, label) for part, of_part in files.items() for path, label in of_part.pictures]
    decoded, unreadable = _decode([path for _, path, _ in entries], settings)
    if unreadable and not settings.skip_unreadable:
        raise DataError(
            f"{_unreadable(unreadable, root, len(entries))}; repair or remove {'it' if len(unreadable) == 1 else 'them'}, "
            "or set `skip_unreadable = true`"
        )
    entries = [entry for entry in entries if entry[1] in decoded]
    _refuse_empty_classes(roots["train"], classes, [label for part, _, label in entries if part == "train"], skipped)
    images = _stack([decoded[path].pixels for _, path, _ in entries], [path for _, path, _ in entries])
    labels = np.array([label for _, _, label in entries], np.int64)
    cuts = np.cumsum([sum(part == name for part, _, _ in entries) for name in roots])[:-1]  # entries are in the parts' order
    splits = {
        name: Split(*of_part) for name, *of_part in zip(roots, np.split(images, cuts), np.split(labels, cuts), strict=True)
    }
    notes = [
        *_layout_notes(root, roots),
        *([f"left out: {_kinds(skipped)}, which are no pictures that Pillow decodes"] if skipped else []),
        *([f"left out: {_unreadable(unreadable, root, len(entries) + len(unreadable))}"] if unreadable else []),
        *_picture_notes(list(decoded.values()), settings.white),
    ]
    preparation = "each picture was turned as its EXIF orientation says"
    if settings.image_size is not None:
        preparation += (
            f"; the largest square in its middle was cut out and resized to {settings.image_size} x {settings.image_size} "
            "pixels (Pillow's ImageOps.fit, bilinear, antialiased)"
        )
    return RawData(
        classes, splits["train"], splits.get("test"), splits.get("validation"), notes=tuple(notes), preparation=preparation
    )


# --- which files --------------------------------------------------------------------------------------------------------------


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _folders(place: Path) -> list[Path]:
    return sorted((p for p in place.iterdir() if p.is_dir() and not _is_litter(p.name)), key=lambda p: p.name)


def _holds_folders(place: Path) -> bool:
    return place.is_dir() and bool(_folders(place))


def _part_roots(root: Path, own_validation: bool) -> dict[str, Path]:
    """The folder that holds the class folders of each part; "train" is always among them."""
    has_parts = _holds_folders(root / "train")
    if not has_parts:
        near = [p for p in _folders(root) if p.name.lower() in _PART_NAMES and _holds_folders(p)]
        if near:
            raise DataError(
                f"{root} has {near[0].name!r} with folders in it, but no 'train' with folders for the classes; call the parts "
                "train and test"
            )
        if own_validation:
            raise DataError(f"`own_validation` needs {root}/train/CLASS and {root}/validation/CLASS")
        return {"train": root}
    roots = {"train": root / "train"}
    if (root / "test").is_dir():
        roots["test"] = root / "test"
    if own_validation:
        given = next((root / name for name in _VALIDATION_NAMES if _holds_folders(root / name)), None)
        if given is None:
            raise DataError(f"`own_validation` needs {root}/validation/CLASS (or val, valid); there is none")
        roots["validation"] = given
    return roots


def _list_files(place: Path, classes: Sequence[str], train: Path) -> _Files:
    unknown = sorted({p.name for p in _folders(place)} - set(classes))
    if unknown:
        raise DataError(f"{place} has the class {unknown[0]!r}, which {train} has not")
    files = _Files()
    suffixes = picture_suffixes()
    for label, name in enumerate(classes):
        for path in sorted(_walk(place / name)):
            if path.suffix.lower() in suffixes:
                files.pictures.append((path, label))
            else:
                files.skipped[path.suffix.lower() or "without suffix"] += 1
    return files


def _walk(place: Path) -> Iterator[Path]:
    """Every file below a folder but litter and what lies in folders that are litter."""
    if not place.is_dir():
        return
    for path in place.rglob("*"):
        if path.is_file() and not any(_is_litter(name) for name in path.relative_to(place).parts):
            yield path


# --- reading ------------------------------------------------------------------------------------------------------------------


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


def _refuse_empty_classes(train: Path, classes: Sequence[str], labels: Sequence[int], skipped: Counter[str]) -> None:
    empty = [classes[k] for k in sorted(set(range(len(classes))) - set(labels))]
    if empty:
        what = f"class folder {empty[0]!r}" if len(empty) == 1 else f"{len(empty)} class folders ({_some(empty)})"
        raise DataError(
            f"{what} in {train} {'has' if len(empty) == 1 else 'have'} no readable picture{_only(skipped)}; put some "
            f"there, or remove the folder{'' if len(empty) == 1 else 's'}"
        )


# --- sentences ----------------------------------------------------------------------------------------------------------------


def _count(pictures: int) -> str:
    return f"{pictures} {'picture' if pictures == 1 else 'pictures'}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _kinds(skipped: Counter[str]) -> str:
    total = sum(skipped.values())
    kinds = _some([f"{count} {suffix}" for suffix, count in sorted(skipped.items(), key=lambda kind: (-kind[1], kind[0]))])
    return f"{total} {'file' if total == 1 else 'files'} ({kinds})"


def _only(skipped: Counter[str]) -> str:
    return f" (left out as no pictures: {_kinds(skipped)})" if skipped else ""


def _unreadable(reasons: dict[Path, str], root: Path, total: int) -> str:
    named = _some([f"{path.relative_to(root)}: {reason}" for path, reason in reasons.items()])
    return f"{len(reasons)} of {_count(total)} cannot be read ({named})"


def _layout_notes(root: Path, roots: dict[str, Path]) -> list[str]:
    notes = []
    if roots["train"] != root:
        unread = [p.name for p in _folders(root) if p not in roots.values()]
        if unread:
            advice = "; `own_validation = true` reads it for validation" if set(unread) & set(_VALIDATION_NAMES) else ""
            notes.append(f"not read: {_some(unread)} in {root}, beside train and test{advice}")
    for place in dict.fromkeys([root, *roots.values()]):
        loose = [
            p for p in place.iterdir() if p.is_file() and not _is_litter(p.name) and p.suffix.lower() in picture_suffixes()
        ]
        if loose:
            notes.append(f"left out: {_count(len(loose))} in {place} itself, in the folder of no class")
    return notes


def _picture_notes(pictures: Sequence[Picture], white: float | None) -> list[str]:
    notes = []
    animated = sum(picture.frames > 1 for picture in pictures)
    if animated:
        notes.append(f"{_count(animated)} with several frames or pages: the first is read")
    transparent = sum(picture.is_transparent for picture in pictures)
    if transparent:
        notes.append(
            f"{_count(transparent)} with transparency: it is left out, and the colours below it are read as they are stored"
        )
    tops = [picture.top for picture in pictures if picture.top is not None]
    if tops:
        notes.append(f"{_count(len(tops))} of deep grey: scaled to 8 bits")
    if tops and max(tops) < _DARK:
        notes.append(
            f"the brightest picture of deep grey reaches {max(tops):.1%} of white, so most of the detail is lost; set "
            "`white` to the value that means white"
        )
    clipped = sum(top > 1 for top in tops)
    if clipped:
        notes.append(f"{_count(clipped)} with values above `white` = {white:g}: these became white")
    return notes
