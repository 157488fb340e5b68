"""Where a user's studies, artifacts and logs live."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from edgesearch.errors import StudyError
from edgesearch.files import expanded, is_utf8


@dataclass(frozen=True)
class Home:
    """A folder: studies.db, store/, logs/STUDY/, reports/, deployments/STUDY/.

    root: as it was given, for words. Everything lies where that was when this was made, should the working folder change.
    Raises StudyError for what is no path, or is none in UTF-8.
    """

    root: Path
    folder: Path = field(init=False, compare=False)

    def __post_init__(self) -> None:
        folder = expanded(self.root, "--home", StudyError).absolute()
        if not is_utf8(str(folder)):  # no database is opened there
            raise StudyError(f"--home is {str(folder)!r}, a path that is not UTF-8; name another folder")
        object.__setattr__(self, "folder", folder)

    @classmethod
    def at(cls, home: str | Path) -> Home:
        """The home in a folder; raises StudyError for what is no path."""
        if not isinstance(home, str | os.PathLike):
            raise StudyError(f"`home` is of type {type(home).__name__}, expected the path of a folder")
        return cls(Path(home))

    @property
    def store(self) -> Path:
        """The artifact store."""
        return self.folder / "store"

    @property
    def database(self) -> str:
        """The default storage URL, which quotes what means something else there than in a path: '%', '?', '{'."""
        return URL.create("sqlite", database=str((self.folder / "studies.db").resolve())).render_as_string()

    def logs(self, study: str) -> Path:
        """One log per stage attempt lies here."""
        return self.folder / "logs" / study

    def report(self, study: str) -> Path:
        """The study's report."""
        return self.folder / "reports" / f"{study}.html"

    def deployments(self, study: str) -> Path:
        """What was deployed to boards, and what they gave, lies here."""
        return self.folder / "deployments" / study

    def prepare(self) -> None:
        """Make the folders; raises StudyError when that is not possible."""
        try:
            for folder in (self.folder, self.folder / "logs", self.folder / "reports"):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:  # folders that are there already may still refuse files
                file.write(b"edgesearch")
        except OSError as error:
            raise StudyError(
                f"--home {str(self.root)!r} cannot be written ({error.strerror or error}); make room or name another folder"
            ) from error
