"""What the runner on a board reports, read as something that anybody may have written.

Sizes, ranges and finite numbers are checked, and words are made printable: whatever the bytes are, the result is a report or
BoardLost. Keys that this version does not know are left out.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgesearch.board_eval.remote._text import printable
from edgesearch.errors import BoardLost

__all__ = ["LARGEST_REPORT", "BoardFacts", "BoardProbe", "RunReport", "logits_bytes", "parse_logits", "parse_report"]

#: Bytes of a report that are read at most.
LARGEST_REPORT = 1 << 20
#: Bytes of a .npy header that are read at most.
_LARGEST_HEADER = 1024

_Text: TypeAlias = Annotated[str, Field(max_length=1000), AfterValidator(printable)]
_Fingerprint: TypeAlias = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{1,16}$")]
_Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Milliseconds: TypeAlias = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
_Fps: TypeAlias = Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)]
_Watts: TypeAlias = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
_Celsius: TypeAlias = Annotated[float, Field(ge=-100, le=300, allow_inf_nan=False)]
_Spread: TypeAlias = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Count: TypeAlias = Annotated[int, Field(ge=0, le=1 << 40)]
_Threads: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
_Position: TypeAlias = Annotated[int, Field(ge=-128, le=128)]
_Shape: TypeAlias = Annotated[list[Annotated[int, Field(ge=1, le=1 << 31)]], Field(max_length=8)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class BoardFacts(_Part):
    """What the board tells of itself; None is what it does not tell."""

    fingerprint: _Fingerprint | None = None
    vart: _Text | None = None
    dpu_cores: Annotated[int, Field(ge=1, le=64)] | None = None
    dpu_mhz: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)] | None = None
    cpu: _Text | None = None
    python: _Text | None = None


class BoardProbe(_Part):
    """What the board is and has; None is what it does not tell."""

    format: Literal[1]
    probe: Literal[True]
    board: BoardFacts
    #: Of the folder of jobs.
    free_bytes: Annotated[int, Field(ge=0, le=1 << 60)]
    power_sensor: _Text | None = None
    temperature_c: _Celsius | None = None
    #: Whether its Python has Vitis AI's vart and xir.
    vart_importable: bool
    problem: _Text | None = None


class _Xmodel(_Part):
    sha256: _Sha256
    fingerprint: _Fingerprint | None = None


class _Tensor(_Part):
    shape: _Shape
    fix_position: _Position | None = None


class _Images(_Part):
    count: _Count
    correct: _Count | None = None
    seconds: _Seconds


class Latency(_Part):
    """One image in flight."""

    threads: _Threads
    median_ms: _Milliseconds
    mean_ms: _Milliseconds
    p95_ms: _Milliseconds
    p99_ms: _Milliseconds
    min_ms: _Milliseconds
    runs: _Count
    repeats_ms: Annotated[list[_Milliseconds], Field(max_length=1000)]
    #: (largest - smallest) / median of the repeats.
    spread: _Spread
    settled: bool


class Throughput(_Part):
    """Every core busy."""

    threads: _Threads
    fps: _Fps
    images: _Count
    repeats_fps: Annotated[list[_Fps], Field(max_length=1000)]
    spread: _Spread
    settled: bool


class Power(_Part):
    """Mean power with the DPU idle and busy."""

    idle_w: _Watts
    busy_w: _Watts
    sensor: _Text


class _Temperature(_Part):
    start: _Celsius
    end: _Celsius


class RunReport(_Part):
    """RESULT.json of a job."""

    format: Literal[1]
    runner: Literal["python", "cpp"]
    runner_version: _Text
    xmodel: _Xmodel
    board: BoardFacts
    input: _Tensor
    output: _Tensor
    images: _Images
    latency: Latency
    throughput: Throughput
    power: Power | None = None
    power_note: _Text | None = None
    temperature_c: _Temperature | None = None
    #: By the board's clock, which may be wrong: nothing is ordered by it.
    measured_at: _Text | None = None
    seconds: _Seconds


_Report = TypeVar("_Report", RunReport, BoardProbe)


def parse_report(content: bytes, kind: type[_Report], board: str) -> _Report:
    """A report of `kind` from the bytes of its file; raises BoardLost with the first thing that is wrong."""
    if len(content) > LARGEST_REPORT:
        raise BoardLost(f"board {board!r} gave a report larger than 1 MiB")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = printable(f"{where}: {first['msg']}" if where else first["msg"])
        raise BoardLost(f"board {board!r} gave a report that cannot be used ({what})") from None


def logits_bytes(images: int, values: int) -> int:
    """The most bytes that the logits' file can have."""
    return images * values + _LARGEST_HEADER


_HEADER = re.compile(rb"\{'descr': '[|<]?i1', 'fortran_order': False, 'shape': \((\d{1,12}), (\d{1,12}),?\),? ?\} *\n?")


def parse_logits(content: bytes, images: int, values: int, board: str) -> npt.NDArray[np.int8]:
    """Int8 (images, values) from the bytes of a .npy file that holds exactly that; raises BoardLost for any other."""
    header = len(content) - images * values
    if content[:6] == b"\x93NUMPY" and content[6:8] == b"\x01\x00" and 10 <= header <= _LARGEST_HEADER:
        length = int.from_bytes(content[8:10], "little")
        found = _HEADER.fullmatch(content, 10, header)
        if found and length == header - 10 and (int(found[1]), int(found[2])) == (images, values):
            return np.frombuffer(content, np.int8, offset=header).reshape(images, values).copy()
    raise BoardLost(f"board {board!r} gave logits that are not int8 of shape ({images}, {values}) in a .npy file")
