"""What was tried so far, as JSON in the home: an interrupted tuning goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError
from edgesearch.files import parse_json, write_atomically

__all__ = ["Journal", "Tried"]

_FORMAT = 1


@dataclass
class Tried:
    """One recipe: the point that was drawn, the stage that it came to, and what is known of it.

    `accuracies`: epochs done -> top-1 on the validation images. `failure`: why it cannot be trained; "" where it can.
    """

    drawn: dict[str, Any]
    key: str
    accuracies: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def epochs(self) -> int:
        """How far it came."""
        return max(map(int, self.accuracies), default=0)

    @property
    def accuracy(self) -> float:
        """Where it came to; 0 where it failed."""
        return 0.0 if self.failure else self.accuracies.get(str(self.epochs), 0.0)


class Journal:
    """The recipes that were tried, in their order, by the key of their stage. Written whole after every rung."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tried: dict[str, Tried] = {}
        try:
            content = parse_json(path.read_text())
            if content["format"] == _FORMAT:
                self._tried = {each["key"]: Tried(**each) for each in content["tried"]}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"what was tuned before cannot be read from {path} ({error}); remove it to begin anew") from error

    @property
    def tried(self) -> tuple[Tried, ...]:
        """All of them."""
        return tuple(self._tried.values())

    @property
    def known(self) -> dict[str, Mapping[str, float]]:
        """Stage key -> epochs -> accuracy."""
        return {key: tried.accuracies for key, tried in self._tried.items() if not tried.failure}

    def add(self, drawn: Mapping[str, Any], key: str, *, epochs: int, accuracy: float, failure: str = "") -> None:
        """Note a rung; raises StudyError where it cannot be written."""
        tried = self._tried.setdefault(key, Tried(dict(drawn), key))
        tried.accuracies[str(epochs)], tried.failure = accuracy, failure
        content = {"format": _FORMAT, "tried": [vars(each) for each in self._tried.values()]}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(content, indent=1).encode())
        except OSError as error:
            raise StudyError(
                f"what was tried cannot be written to {self._path}: {error.strerror or error}; mend it and run it again"
            ) from error
