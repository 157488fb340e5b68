"""A board as numbers: which DPU, how many cores, at which clock, and what its instructions and its host cost.

The constants of `TimingConstants` are not in any document; they are fitted to measurements by `edgesearch calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgesearch.board_eval.targets._dpu import Dpu
from edgesearch.board_eval.targets._registry import load_dpu
from edgesearch.board_eval.targets._runners import HostRunner
from edgesearch.errors import TargetError
from edgesearch.files import expanded, parse_json
from edgesearch.plugins import source_fingerprint
from edgesearch.settings import Settings

__all__ = ["DEFAULT_BOARD", "BoardProfile", "TimingConstants", "is_profile_path", "load_profile", "profile_names"]

#: The board that is meant where none is named; options of the command line say it in their help.
DEFAULT_BOARD = "zcu104"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
_Count = Annotated[int, Field(ge=1, le=1 << 20, strict=True)]
_ARM_CORES = 4
#: How far a clock that a board tells may be from the profile's, relative to it, and count as that.
_SAME_CLOCK = 0.03


class TimingConstants(Settings):
    """Costs of instructions in cycles of the DPU's clock, per instruction and per unit of its work."""

    #: Issue of one LOAD: the latency of its first burst that is not hidden.
    load: _Cost
    #: Per word written on chip by a LOAD.
    load_word: _Cost
    #: Bytes per cycle a LOAD gets from memory.
    load_bytes_per_cycle: _Positive
    #: Issue of one SAVE.
    save: _Cost
    #: Per word read on chip by a SAVE.
    save_word: _Cost
    #: Issue of one CONV; its work is known exactly.
    conv: _Cost
    #: Issue of one pooling or depthwise instruction.
    alu: _Cost
    #: Per window element of pooling and depthwise convolution.
    alu_step: _Positive
    #: Issue of one elementwise instruction.
    elew: _Cost
    #: Per word an elementwise instruction reads.
    elew_step: _Positive


class BoardProfile(Settings):
    """A board: which DPU, how many cores, at which clock, and what its instructions cost."""

    name: str
    dpu: Dpu
    cores: _Count
    clock_mhz: _Positive
    constants: TimingConstants
    #: Seconds between the end of one job on a core and the start of the next: interrupt, driver, start of the new one.
    job_seconds: _Cost
    #: The programs that may feed it, by name, and the one that is meant when none is named.
    runners: Mapping[str, HostRunner]
    default_runner: str
    #: Processors of the host, which the threads of a runner share: a Zynq UltraScale+ has four Cortex-A53.
    host_processors: _Count = _ARM_CORES
    #: Where the constants come from.
    origin: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Take profiles of 0.1.0, which knew a Python and a C++ runner and one efficiency of all cores."""
        if not isinstance(given, Mapping) or "runners" in given or not set(given) >= _FORMER:
            return given
        content = dict(given)
        efficiency, cores = content.pop("multi_core_efficiency"), content.get("cores")
        if not isinstance(efficiency, int | float) or not 0 < efficiency <= 1 or not isinstance(cores, int):
            raise ValueError(f"multi_core_efficiency must be a number from 0 to 1 (given: {efficiency!r})")
        for name in ("host_python", "host_cpp"):
            if not isinstance(content[name], Mapping):
                raise ValueError(f"{name} must be an object with the seconds of a runner (given: {content[name]!r})")
        shared = {"contention": {"fixed": (1 / efficiency - 1) / max(1, cores - 1)}}
        content["runners"] = {name: {**content.pop(f"host_{name}"), **shared} for name in ("python", "cpp")}
        return content | {"default_runner": "python"}

    @model_serializer(mode="wrap")
    def _write(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the host's processors where they are the usual ones: a user's own profile keeps the key that it had."""
        content: dict[str, Any] = plain(self)
        if self.host_processors == _ARM_CORES:
            content.pop("host_processors", None)
        return content

    @model_validator(mode="after")
    def _agree(self) -> BoardProfile:
        if self.default_runner not in self.runners:
            known = ", ".join(sorted(self.runners)) or "none"
            raise ValueError(f"default_runner is {self.default_runner!r}, but the runners are: {known}")
        return self

    def runner(self, name: str | None = None) -> HostRunner:
        """The runner of this name, the default one for None; raises TargetError for a name that the profile does not have."""
        found = self.runners.get(name or self.default_runner)
        if found is None:
            raise TargetError(f"{self.name} has no runner {name!r}; it has {', '.join(sorted(self.runners))}")
        return found

    def has_clock(self, mhz: float) -> bool:
        """Whether a board whose DPU runs at `mhz` is as fast as its predictions say, within 3 %."""
        return abs(mhz / self.clock_mhz - 1.0) <= _SAME_CLOCK

    def to_json(self) -> str:
        """The profile as the text of a file that `load_profile` reads."""
        return json.dumps(self.model_dump(), indent=2) + "\n"


_FORMER = {"multi_core_efficiency", "host_python", "host_cpp"}


def profile_names() -> tuple[str, ...]:
    """Names of the boards that come with this program."""
    folder = resources.files("edgesearch.board_eval.targets")
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def load_profile(name_or_path: str | Path, *, folder: Path | None = None) -> BoardProfile:
    """The profile of a board that comes with this program, by name, or of a user's own, by the path of its JSON file.

    In a file, `dpu` is the name of a size, the import path of a `Dpu` (looked for in `folder` and beside the file before where
    Python looks) or an object with its fields. Raises TargetError, and PluginError for an import path that leads to nothing.
    """
    path = expanded(name_or_path, "board profile", TargetError)
    text = _profile_text(path)
    try:
        raw = parse_json(text, object_pairs_hook=_once)
    except ValueError as error:
        raise TargetError(f"board profile {str(name_or_path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise TargetError(f"board profile {str(name_or_path)!r} is not a JSON object")
    if isinstance(raw.get("dpu"), str):
        has_it = folder is not None and bool(source_fingerprint(raw["dpu"], folder=folder))
        raw["dpu"] = load_dpu(raw["dpu"], folder=folder if has_it else path.parent).model_dump()
    try:
        return BoardProfile.model_validate(raw)
    except ValidationError as error:
        raise TargetError(f"board profile {str(name_or_path)!r}: {_sentence(error)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of a key that stands twice one value would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice; leave one of them out"
        )
    return content


def _sentence(error: ValidationError) -> str:
    """The first of what is wrong: the key, what it is, what it should be."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key} = {first['input']!r}; remove it or correct its name"
    if first["type"] == "missing":
        return f"{key} is missing; add it (copy a board that comes with this program)"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    message = first["msg"].removeprefix("Input should be ")
    return f"{key} = {first['input']!r}, expected {message}"


def is_profile_path(board: str) -> bool:
    """Whether a board is given as the path of a profile, and not by its name or the import path of its class."""
    return board.endswith(".json")


def _profile_text(path: Path) -> str:
    name = str(path)
    if name in profile_names():
        return resources.files("edgesearch.board_eval.targets").joinpath(f"{name}.json").read_text(encoding="utf-8")
    if not is_profile_path(name):
        raise TargetError(f"unknown board {name!r}; known are {', '.join(profile_names())}, or the path of a .json profile")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TargetError(f"board profile {name!r} cannot be read: {why}") from error


def check_profile(profile: object) -> None:
    """Raise TargetError for what is no profile, such as a board's name."""
    if not isinstance(profile, BoardProfile):
        raise TargetError(f"the profile is of type {type(profile).__name__}, expected the BoardProfile of `load_profile`")
