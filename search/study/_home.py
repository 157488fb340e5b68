"""Where a user's studies, artifacts and logs live."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgesearch.errors import StudyError


@dataclass(frozen=True)
class Home:
    """A folder: studies.db, store/, logs/STUDY/, reports/, deployments/STUDY/."""

    root: Path

    @property
    def store(self) -> Path:
        """The artifact store."""
        return self.root / "store"

    @property
    def database(self) -> str:
        """The default storage URL."""
        return f"sqlite:///{(self.root / 'studies.db').resolve()}"

    def logs(self, study: str) -> Path:
        """One log per stage attempt lies here."""
        return self.root / "logs" / study

    def report(self, study: str) -> Path:
        """The study's report."""
        return self.root / "reports" / f"{study}.html"

    def deployments(self, study: str) -> Path:
        """What was deployed to boards, and what they gave, lies here."""
        return self.root / "deployments" / study

    def prepare(self) -> None:
        """Make the folders; raises StudyError when that is not possible."""
        try:
            for folder in (self.root, self.root / "logs", self.root / "reports"):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:  # folders that are there already may still refuse files
                file.write(b"edgesearch")
        except OSError as error:
            raise StudyError(
                f"--home {str(self.root)!r} cannot be written ({error.strerror}); make room or name another folder"
            ) from error
