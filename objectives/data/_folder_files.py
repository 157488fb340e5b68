"""Which files of a folder are pictures of which class: parts, class folders, and what lies beside them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesearch.errors import DataError
from edgesearch.objectives.data._pictures import picture_suffixes

__all__ = ["Entry", "Listing", "list_pictures", "some", "with_count"]

#: Left by operating systems and disk stations beside pictures; so is every name that starts with a dot (._x.jpg, .DS_Store).
_LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"})
_VALIDATION_NAMES = ("validation", "val", "valid")
_PART_NAMES = frozenset({"train", "training", "test", "testing", *_VALIDATION_NAMES})
#: Names that a sentence lists before it says "and N more".
_LISTED = 5


@dataclass(frozen=True)
class Entry:
    """A picture file."""

    part: str  # "train", "test" or "validation"
    path: Path
    label: int


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder: training pictures first, class by class, in the order of their names.

    roots: the folder of each part's class folders.
    skipped: suffix -> how many files in class folders are no pictures.
    lost: links to nothing, and folders that cannot be read, in the place of pictures or class folders.
    """

    root: Path
    roots: dict[str, Path]
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    skipped: Counter[str]
    lost: tuple[Path, ...] = ()

    def skipped_kinds(self) -> str:
        """How many files are no pictures, by kind: "3 files (2 .csv, 1 .txt)"."""
        total = sum(self.skipped.values())
        kinds = some([f"{count} {suffix}" for suffix, count in sorted(self.skipped.items(), key=lambda k: (-k[1], k[0]))])
        return f"{total} {'file' if total == 1 else 'files'} ({kinds})"

    def refuse_empty_classes(self, readable: Sequence[Entry]) -> None:
        """Raise DataError naming the classes that have no training picture among `readable`."""
        present = {entry.label for entry in readable if entry.part == "train"}
        empty = [name for label, name in enumerate(self.classes) if label not in present]
        if not empty:
            return
        train = self.roots["train"]
        said = [f"left out as no pictures: {self.skipped_kinds()}"] if self.skipped else []
        said += [self._lost_sentence()] if self.lost else []
        left_out = f" ({'; '.join(said)})" if said else ""
        if len(empty) == len(self.classes):
            raise DataError(f"{train} has no readable pictures in its class folders{left_out}")
        one = len(empty) == 1
        what = f"class folder {empty[0]!r}" if one else f"{len(empty)} class folders ({some(empty)})"
        raise DataError(
            f"{what} in {train} {'has' if one else 'have'} no readable picture{left_out}; put some there, or remove the "
            f"{'folder' if one else 'folders'}"
        )

    def _lost_sentence(self) -> str:
        what = "link to nothing or folder" if len(self.lost) == 1 else "links to nothing or folders"
        return f"{len(self.lost)} {what} that cannot be read: {some([str(path.relative_to(self.root)) for path in self.lost])}"

    def notes(self) -> list[str]:
        """Sentences on what is not read."""
        notes = []
        if self.roots["train"] != self.root:
            unread = [p.name for p in _folders(self.root) if p not in self.roots.values()]
            if unread:
                is_offered = set(unread) & set(_VALIDATION_NAMES) and "validation" not in self.roots
                advice = "; `own_validation = true` reads it for validation" if is_offered else ""
                notes.append(f"not read: {some(unread)} in {self.root}, beside train and test{advice}")
        for place in dict.fromkeys([self.root, *self.roots.values()]):
            loose = [p for p in place.iterdir() if p.is_file() and not _is_litter(p.name) and _is_picture(p)]
            if loose:
                notes.append(f"left out: {with_count(len(loose))} in {place} itself, in the folder of no class")
        if below := self._below():
            what = f"{with_count(sum(below.values()))} in folders inside those of classes ({some(sorted(below))})"
            notes.append(f"{what}, read as pictures of these classes; move away what is none, masks for example")
        if self.skipped:
            notes.append(f"left out: {self.skipped_kinds()}, which are no pictures that Pillow decodes")
        if self.lost:
            notes.append(f"left out: {self._lost_sentence()}")
        return notes

    def _below(self) -> Counter[str]:
        """The names of folders inside those of classes, and the pictures in them, beside those that lie in its class's own."""
        tops = {part: len(place.parts) + 1 for part, place in self.roots.items()}
        inside = (entry.path.parts[tops[entry.part] : -1] for entry in self.entries)
        return Counter(folders[0] for folders in inside if folders)


def list_pictures(root: Path, own_validation: bool) -> Listing:
    """The pictures of `root`; raises DataError when it is not laid out as class folders."""
    roots = _part_roots(root, own_validation)
    train = roots["train"]
    classes = tuple(p.name for p in _folders(train))
    if not classes:
        raise DataError(f"{train} has no folder for a class; expected {train}/CLASS/*.png or *.jpg")
    if "test" in roots and not _folders(roots["test"]):
        loose = sum(path.is_file() and _is_picture(path) for path in roots["test"].iterdir() if not _is_litter(path.name))
        raise DataError(
            f"{roots['test']} has {with_count(loose)} but no class folders; sort them into {roots['test']}/CLASS, or move the "
            f"folder away: test images are then drawn from {train}"
        )
    entries: list[Entry] = []
    skipped: Counter[str] = Counter()
    lost = [path for place in roots.values() for path in sorted(place.iterdir()) if _is_lost(path)]
    for part, place in roots.items():
        unknown = sorted({p.name for p in _folders(place)} - set(classes))
        if unknown:
            raise DataError(f"{place} has the class {unknown[0]!r}, which {train} has not{_alike(unknown[0], classes)}")
        for label, name in enumerate(classes):
            files, unreachable = _walk(place / name)
            lost += unreachable
            for path in sorted(files):
                if _is_picture(path):
                    entries.append(Entry(part, path, label))
                else:
                    skipped[path.suffix.lower() or "without suffix"] += 1
        if part != "train" and not any(entry.part == part for entry in entries):
            raise DataError(f"{place} has no pictures in its class folders; put some there, or move the folder away")
    return Listing(root, roots, classes, tuple(entries), skipped, tuple(sorted(lost)))


def _alike(name: str, classes: Sequence[str]) -> str:
    """What to do where a class has that name in other characters: an accented letter may be one, or two."""
    if any(unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", known) for known in classes):
        return " in these characters (an accent may be a part of its letter, or a character of its own); rename one of them"
    return ""


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def with_count(pictures: int) -> str:
    """The number with its noun: 1 picture, 2 pictures."""
    return f"{pictures} {'picture' if pictures == 1 else 'pictures'}"


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in picture_suffixes()


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
        classes = [p.name for p in _folders(root)]
        if classes and all(name.lower() in _PART_NAMES for name in classes):
            raise DataError(
                f"{root} has {' and '.join(classes)} without folders for the classes in them; sort the pictures into "
                "train/CLASS and test/CLASS"
            )
        if parts := [name for name in classes if name.lower() in _PART_NAMES and name.lower() != "train"]:  # cars, and trains
            raise DataError(
                f"{root} has {' and '.join(parts)} beside folders of classes; sort the pictures into train/CLASS and "
                "test/CLASS, or rename what is a class, or move it away"
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


def _is_lost(path: Path) -> bool:
    """Whether it is a link to nothing."""
    return path.is_symlink() and not path.exists() and not _is_litter(path.name)


def _walk(place: Path) -> tuple[list[Path], list[Path]]:
    """Every file below a folder but litter and what lies in folders that are litter; and what cannot be reached there.

    Links are followed, behind all real folders. A folder is read once, and none through a link that lies in it: links may go
    round in circles.
    """
    files: list[Path] = []
    lost: list[Path] = []
    folders, links, seen = [place] if place.is_dir() else [], list[Path](), set[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen or (folder != place and folder.is_symlink() and folder.parent.resolve().is_relative_to(real)):
            continue
        seen.add(real)
        try:
            for path in sorted(folder.iterdir()):
                if _is_litter(path.name):
                    continue
                if path.is_dir():
                    (links if path.is_symlink() else folders).append(path)
                elif path.is_file():
                    files.append(path)
                elif _is_lost(path):
                    lost.append(path)
        except OSError:
            lost.append(folder)
    return files, lost
