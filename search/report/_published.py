"""What others measured with networks of their own on boards of this kind, to be seen beside a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Published:
    """A network that others measured: accuracy on test images (0..1), images per second, on what, and who says so."""

    name: str
    accuracy: float
    fps: float
    board: str
    source: str


def published(data: str) -> tuple[Published, ...]:
    """What is known for the data set of this name; nothing for one that is not in the lists that come with the studies."""
    file = resources.files("edgesearch.studies") / f"published_{data}.json"
    if not data.isidentifier() or not file.is_file():
        return ()
    return tuple(Published(**point) for point in json.loads(file.read_text(encoding="utf-8")))
