"""Every exception that edgesearch raises on purpose.

EdgesearchError                 what a person did or gave; the command line prints it as one sentence, exit code 2
├── SpaceError                  a candidate, a space or a study file that is not valid
│   ├── SettingsError           settings made in Python that are not valid; a ValueError, too
│   └── NetworkRefused          a network of the user's own, whose code makes or computes what cannot be trained
├── PluginError                 a name or an import path that leads to nothing, or to code that cannot be used
├── DataError                   a data set that cannot be used
├── GraphError                  a network that is not well formed, or that the DPU cannot hold
│   ├── LoweringError           a torch model with operations the DPU does not have; lists every one
│   └── CompileError            a quantized network that the compiler cannot place or encode
├── XmodelError                 a file that is not an xmodel, or one this program cannot read
│   └── InstructionError        code that is no program of this DPU, or cannot be encoded as one
├── QuantizationError           weights, activations or calibration images that cannot be quantized
├── TargetError                 an unknown DPU or board, or a board profile that is not valid
├── MeasurementError            board measurements that are missing or impossible
├── BoardError                  a board that does not answer, or refuses an xmodel
│   └── BoardLost               the board is at fault, not the network: another board, or the same one later, may serve
│       ├── BoardBusy           another program measures there: nothing is wrong with the board, and time frees it
│       └── BoardUnfit          a board that serves nobody before a person mends it, or what the boards file says of it
├── ToolchainError              a tool of Vitis AI that is not there, or that failed
│   └── ToolchainMissing        one that is not there, or serves no network before a person mends it
├── StoreError                  the artifact store cannot be read or written
├── TrainingError               a training that ended in NaN or not at all
│   ├── DeviceError             a device that torch does not know, or that cannot be used here and now
│   ├── NotFinite               numbers of a network's own that became NaN or infinite in its training
│   └── OutOfMemory             no memory left for a training or an evaluation; elsewhere it may fit
├── Infeasible                  a network that turned out to break a hard limit
├── StageFailed                 a stage that failed before and would fail again
└── StudyError                  a study that does not exist, changed, or cannot be stored

Anything else that escapes is a bug: a traceback and exit code 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "BoardBusy",
    "BoardError",
    "BoardLost",
    "BoardUnfit",
    "CompileError",
    "DataError",
    "DeviceError",
    "EdgesearchError",
    "GraphError",
    "Infeasible",
    "InstructionError",
    "LoweringError",
    "LoweringProblem",
    "MeasurementError",
    "NetworkRefused",
    "NotFinite",
    "OutOfMemory",
    "PluginError",
    "QuantizationError",
    "SettingsError",
    "SpaceError",
    "StageFailed",
    "StoreError",
    "StudyError",
    "TargetError",
    "ToolchainError",
    "ToolchainMissing",
    "TrainingError",
    "XmodelError",
]


#: Places of one problem that a sentence names.
_PLACES = 3


class EdgesearchError(Exception):
    """The root: one sentence saying what was given, what was expected and what to do."""


class SpaceError(EdgesearchError):
    """A candidate, a space or a study file that is not valid."""


class SettingsError(SpaceError, ValueError):
    """Settings made in Python that are not valid."""


class NetworkRefused(SpaceError):
    """A network of the user's own, whose code makes or computes what cannot be trained; it does so every time."""


class PluginError(EdgesearchError):
    """A name or an import path that leads to nothing, or to code that cannot be used."""


class DataError(EdgesearchError):
    """A data set that cannot be used."""


class GraphError(EdgesearchError):
    """A network that is not well formed, or that the DPU cannot hold."""


@dataclass(frozen=True)
class LoweringProblem:
    """One operation of a torch model that has no form on the DPU."""

    where: str  # module path, or the name of the traced operation
    operation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where} ({self.operation}): {self.reason}"


class LoweringError(GraphError):
    """A torch model with operations the DPU does not have; all of them are in `problems`."""

    def __init__(self, model: str, problems: Sequence[LoweringProblem]) -> None:
        self.model = model
        self.problems = tuple(problems)
        alike: dict[tuple[str, str], list[str]] = {}
        for problem in self.problems:
            alike.setdefault((problem.operation, problem.reason), []).append(problem.where)
        told = (f"{_first(places)} ({operation}): {reason}" for (operation, reason), places in alike.items())
        super().__init__(f"{model} does not fit on the DPU: {'; '.join(told)}")

    def __reduce__(self) -> tuple[type[LoweringError], tuple[str, tuple[LoweringProblem, ...]]]:
        return type(self), (self.model, self.problems)


def _first(places: Sequence[str]) -> str:
    """The first places, and how many there are besides."""
    more = len(places) - _PLACES
    return ", ".join(places[:_PLACES]) + (f" and {more} more" if more > 0 else "")


class CompileError(GraphError):
    """A quantized network that the compiler cannot place on the DPU, or encode for it."""


class Infeasible(EdgesearchError):
    """A network that breaks a hard limit, once it is known which network it is; `figures` are its metrics by name."""

    def __init__(self, message: str, figures: Mapping[str, float]) -> None:
        self.figures = dict(figures)
        super().__init__(message)

    def __reduce__(self) -> tuple[type[Infeasible], tuple[str, dict[str, float]]]:
        return type(self), (str(self), self.figures)


class XmodelError(EdgesearchError):
    """A file that is not an xmodel, or one this program cannot read."""


class InstructionError(XmodelError):
    """Code that is no program of this DPU, or that cannot be encoded as one."""


class QuantizationError(EdgesearchError):
    """Weights, activations or calibration images that cannot be quantized."""


class TargetError(EdgesearchError):
    """An unknown DPU or board, or a board profile that is not valid."""


class MeasurementError(EdgesearchError):
    """Board measurements that are missing or impossible."""


class BoardError(EdgesearchError):
    """A board that does not answer, or that refuses an xmodel."""


class BoardLost(BoardError):
    """A board at fault, not the network that it was given: another board, or the same one later, may serve."""


class BoardBusy(BoardLost):
    """A board that another program keeps: a living one, so that the board is well and serves when it is let go."""


class BoardUnfit(BoardLost):
    """A board that serves no network before a person mends it: its key, its login, its programs, its DPU, or its settings."""


class ToolchainError(EdgesearchError):
    """A tool of Vitis AI that is not there, or that failed."""


class ToolchainMissing(ToolchainError):
    """A tool of Vitis AI that is not there, does not start, or is not the study's: it serves no network, whichever it is."""


class StoreError(EdgesearchError):
    """The artifact store cannot be read or written."""


class TrainingError(EdgesearchError):
    """A training that ended in NaN or not at all."""


class DeviceError(TrainingError, QuantizationError):
    """A device that torch does not know, or that cannot be used here and now, to train or to execute integers on."""


class NotFinite(TrainingError):
    """Numbers of a network's own that became NaN or infinite in its training."""


class OutOfMemory(TrainingError):
    """No memory left for a training or an evaluation; elsewhere, or at another time, it may fit."""


class StageFailed(EdgesearchError):
    """A stage that failed before and would fail again."""


#: What the reason of a `StageFailed` ends with.
KNOWN_FAILURE = "(known from an earlier attempt; --retry-failed tries it again)"


class StudyError(EdgesearchError):
    """A study that does not exist, that changed, or that cannot be stored."""


#: Characters of what foreign code says that are worth quoting.
_QUOTED = 500


def in_one_line(error: BaseException) -> str:
    """What an exception of foreign code says, its kind first: torch's often take several lines."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:_QUOTED] + ' ...' if len(said) > _QUOTED else said}"
