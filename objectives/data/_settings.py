"""The [data] table of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator, model_validator

from edgesearch.objectives.data._normalisation import NormalisationChoice, parse_choice
from edgesearch.objectives.data._sources import BUILT_IN, DATA_SOURCES, READ_BY
from edgesearch.plugins import is_import_path
from edgesearch.settings import Settings

__all__ = ["DataSettings", "without_unread"]

#: Settings that some sources read.
_OF_SOME = frozenset().union(*READ_BY.values())


class DataSettings(Settings):
    """Which images, and how many of them.

    name: "digits" (bundled), "mnist", "fashion_mnist", "cifar10", "npz" (arrays in a file), "folder" (pictures in a folder for
    each class), or the import path of a source of your own, `my_pkg.module:load`.
    root: the file or folder; may be left out for digits, and with `download`.
    image_size: pixels of a side that all images are brought to; left out, images keep their size.
    train_images, validation_images, calibration_images, test_images: how many, drawn evenly from the classes. Left out:
    validation a fifth of the images, up to 5,000; calibration a tenth, up to 256; the rest for training; all test images.
    test_first: where a data set has no test images of its own, take `test_images` out first and the other splits out of all the
    rest, as earlier versions did; otherwise up to a fifth of the images changes no other split.
    own_validation: validate on the validation images that the data set sets aside, not on some of the training images.
    noise: standard deviation of normal noise added to every pixel of every split, where 1 is the way from black to white.
    normalisation: "imagenet", "data" (mean and std of the training images) or numbers; left out, bytes go to -1..1.
    white: the value that means white where images are deeper than 8 bits; left out, 65,535 for 16 bits and 1 for floats.
    skip_unreadable: leave damaged pictures of a folder out; otherwise they are an error that names them.
    options: what a source of your own is told.

    A setting that the named source does not read is refused.
    """

    name: str = "digits"
    root: Path | None = None
    download: bool = False
    image_size: int | None = Field(default=None, ge=4, le=1024)
    train_images: int | None = Field(default=None, ge=2)
    validation_images: int | None = Field(default=None, ge=1)
    calibration_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)
    test_first: bool = False
    own_validation: bool = False
    noise: float = Field(default=0.0, ge=0.0, le=1.0)
    normalisation: NormalisationChoice | None = None
    white: float | None = Field(default=None, gt=0.0)
    skip_unreadable: bool = False
    options: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATA_SOURCES and not is_import_path(name):
            raise ValueError(DATA_SOURCES.unknown(name))
        return name

    @field_validator("normalisation", mode="before")
    @classmethod
    def _written(cls, given: object) -> object:
        return parse_choice(given)

    @model_validator(mode="after")
    def _taken(self) -> DataSettings:
        if self.options and self.name in BUILT_IN:
            raise ValueError(
                f"`options` are for a data source of your own; {self.name!r} takes none, got {', '.join(self.options)}"
            )
        if unread := [f"{key} = {_written(getattr(self, key))}" for key in _unread(self.name, self.model_dump())]:
            has_files = self.root is not None and "root" not in READ_BY[self.name]
            advice = 'add name = "folder" or name = "npz"' if has_files else "leave it out"
            raise ValueError(f"data set {self.name!r} does not read {', '.join(unread)}; {advice}")
        return self


def without_unread(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A [data] table without what its source does not read, which earlier versions took and passed over."""
    unread = _unread(str(tables.get("name", DataSettings.model_fields["name"].default)), tables)
    return {key: value for key, value in tables.items() if key not in unread}


def _unread(name: str, tables: Mapping[str, Any]) -> list[str]:
    """The keys that say something which the source of this name does not read; a source of the user's own may read all."""
    fields = DataSettings.model_fields
    known = _OF_SOME - READ_BY.get(name, _OF_SOME)
    return sorted(key for key in known & tables.keys() if tables[key] != fields[key].default)


def _written(value: object) -> str:
    """As TOML has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else f'"{value}"'
