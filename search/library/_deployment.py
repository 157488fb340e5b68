"""What came of a trial on a board: its logits beside our integers, its figures beside the predicted ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesearch.board_eval import LogitsComparison

__all__ = ["DeployedFile", "Deployment", "Figures"]

#: Counts up when the record's entries mean something else.
_FORMAT = 1


@dataclass(frozen=True)
class Figures:
    """Measured or predicted. None: not available."""

    #: Top-1 on the images that were run, 0..1.
    accuracy: float
    #: Images per second, every core busy.
    fps: float
    #: One image in flight.
    latency_ms: float
    #: Mean power with the DPU busy, and what of it the idle board takes.
    power_w: float | None = None
    idle_w: float | None = None
    #: Half the widths of the 90 % intervals of both predicted times, relative to them.
    fps_error: float | None = None
    latency_error: float | None = None


@dataclass(frozen=True)
class DeployedFile:
    """What a board ran: the compiled file as it is kept, the network's before compiling, who compiled it, its checksum."""

    path: Path
    network: Path
    compiler: str
    sha256: str
    fingerprint: str


@dataclass(frozen=True)
class Deployment:
    """A trial's compiled file as a board ran it."""

    study: str
    trial: int
    candidate: str
    board: str
    file: DeployedFile
    logits: LogitsComparison
    measured: Figures
    predicted: Figures
    #: The profile and its runner that foretold the speed.
    predicted_by: str
    #: Top-1 on all validation images, as the study has it.
    study_accuracy: float | None
    measured_at: str
    conditions: Mapping[str, str]
    #: What the runner on the board reported.
    report: Mapping[str, Any]
    #: Where this is kept, as JSON.
    record: Path

    @property
    def differences(self) -> dict[str, float]:
        """Measured / predicted - 1, of fps and latency_ms."""
        measured, predicted = self.measured, self.predicted
        return {
            "fps": measured.fps / predicted.fps - 1.0,
            "latency_ms": measured.latency_ms / predicted.latency_ms - 1.0,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; files by their names from the record's folder."""
        folder, file, logits = self.record.parent, self.file, self.logits
        return {
            "format": _FORMAT,
            "study": self.study,
            "trial": self.trial,
            "candidate": self.candidate,
            "board": self.board,
            "compiler": file.compiler,
            "file": file.path.relative_to(folder).as_posix(),
            "network": file.network.relative_to(folder).as_posix(),
            "sha256": file.sha256,
            "fingerprint": file.fingerprint,
            "images": {"of": "validation", "count": logits.images},
            "logits": {
                "equal": logits.equal,
                "differing_images": logits.differing,
                "largest_difference": logits.largest,
                "other_class": logits.other_class,
            },
            "measured": _known(self.measured),
            "predicted": _known(self.predicted) | {"by": self.predicted_by},
            "difference_percent": {name: round(100 * value, 3) for name, value in self.differences.items()},
            "study_accuracy": self.study_accuracy,
            "measured_at": self.measured_at,
            "conditions": dict(self.conditions),
            "report": dict(self.report),
        }


def _known(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in vars(figures).items() if value is not None}
