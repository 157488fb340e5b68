"""What others measured with networks of their own on boards of this kind, and what this program's own studies found.

Both are seen beside a study of the same data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgesearch.board_eval import DEFAULT_BOARD, load_profile


@dataclass(frozen=True)
class Published:
    """A network that was measured: accuracy on test images (0..1), images per second, on what, and who says so.

    own: whether a study that comes with this program found it, on a simulated board.
    """

    name: str
    accuracy: float
    fps: float
    board: str
    source: str
    own: bool = False


def published(data: str, *, study: str = "") -> tuple[Published, ...]:
    """What is known for the data set of this name, but of `study` itself; nothing where no list or result has it."""
    folder = resources.files("edgesearch.studies")
    file = folder / f"published_{data}.json"
    if not data.isidentifier():
        return ()
    others = [Published(**point) for point in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
    return (*others, *_own(data, study))


def _own(data: str, study: str) -> Iterator[Published]:
    """The front of each committed result on all images of the data set; of several seeds, that of the first."""
    results = resources.files("edgesearch.studies") / "results"
    for folder in sorted(results.iterdir(), key=lambda entry: entry.name) if results.is_dir() else ():
        file = folder / "results.json"
        run = json.loads(file.read_text(encoding="utf-8"))["runs"][0] if file.is_file() else None
        if run is None or run["study"] == study or run["settings"]["data"]["name"] != data:
            continue
        if run["settings"]["data"].get("train_images") is not None:
            continue
        name = run["settings"].get("board", DEFAULT_BOARD)
        most, board = _most_fps(name, run), f"{name}, simulated"
        for trial in run["trials"]:
            if trial["front"] and "test_accuracy" in trial and "fps" in trial and trial["fps"] <= most:
                source = f"edgesearch's study {run['study']}, trial {trial['trial']}"
                yield Published(trial["recipe"], trial["test_accuracy"], trial["fps"], board, source, own=True)


def _most_fps(board: str, run: Mapping[str, Any]) -> float:
    """More images a second the host of this board feeds to no network: a figure above is by an earlier profile."""
    profile = load_profile(board)
    pixels = min(int(trial["settings"]["student"]["input_size"]) ** 2 for trial in run["trials"])
    return 1.001 / profile.runner().spacing(pixels, profile.host_processors)
