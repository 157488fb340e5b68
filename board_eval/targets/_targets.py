"""What a network is timed for: the DPU's geometry, and a board with its clock, its cores and its timing constants.

Geometry: AMD, "DPUCZDX8G for Zynq UltraScale+ MPSoCs" (PG338), tables of architectures and of on-chip memory. The constants of
`TimingConstants` are not in any document; they are fitted to measurements by `edgesearch calibrate`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgesearch.errors import TargetError

__all__ = ["DPUS", "BoardProfile", "Dpu", "HostOverhead", "TimingConstants", "load_dpu", "load_profile", "profile_names"]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dpu(_Model):
    """The geometry of one DPU core.

    Its convolution engine works on `pixel_parallel` rows, `input_parallel` input and `output_parallel` output channels at a
    time; a memory word holds `input_parallel` int8 values of one pixel.
    """

    name: str
    pixel_parallel: _Count
    input_parallel: _Count
    output_parallel: _Count
    #: Depth of every on-chip bank, in words.
    bank_words: _Count = 2048
    #: Groups of `pixel_parallel` feature-map banks; a tensor lies in one of them.
    feature_groups: _Count = 2
    max_kernel: _Count = 16
    max_stride: _Count = 8

    @property
    def operations_per_cycle(self) -> int:
        """Multiplications and additions per cycle, the number in the name of the target."""
        return 2 * self.pixel_parallel * self.input_parallel * self.output_parallel

    @property
    def alu_rows(self) -> int:
        """Rows that pooling, depthwise convolution and elementwise operations do at a time."""
        return max(1, self.pixel_parallel // 2)

    @property
    def augmented_inputs(self) -> int:
        """Largest kernel width x channels of a first convolution that is folded into the input channels."""
        return 2 * self.input_parallel


def _family(name: str, pixels: int, inputs: int, outputs: int) -> Dpu:
    return Dpu(name=name, pixel_parallel=pixels, input_parallel=inputs, output_parallel=outputs)


#: Every architecture of the DPUCZDX8G.
DPUS = MappingProxyType(
    {
        dpu.name: dpu
        for dpu in (
            _family("B512", 4, 8, 8),
            _family("B800", 4, 10, 10),
            _family("B1024", 8, 8, 8),
            _family("B1152", 4, 12, 12),
            _family("B1600", 8, 10, 10),
            _family("B2304", 8, 12, 12),
            _family("B3136", 8, 14, 14),
            _family("B4096", 8, 16, 16),
        )
    }
)


def load_dpu(name: str) -> Dpu:
    """The DPU architecture called `name`, as "B4096"; raises TargetError when there is none."""
    if name not in DPUS:
        raise TargetError(f"unknown DPU {name!r}; known are {', '.join(DPUS)}")
    return DPUS[name]


class TimingConstants(_Model):
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


class HostOverhead(_Model):
    """Seconds the host adds to one image: fixed, and per input pixel (pre- and post-processing on the CPU)."""

    seconds: _Cost
    seconds_per_pixel: _Cost = 0.0

    def of(self, pixels: int) -> float:
        """Seconds for an image of `pixels` pixels (height x width)."""
        return self.seconds + self.seconds_per_pixel * pixels


class BoardProfile(_Model):
    """A board: which DPU, how many cores, at which clock, and what its instructions cost."""

    name: str
    dpu: Dpu
    cores: _Count
    clock_mhz: _Positive
    constants: TimingConstants
    #: Seconds between the end of one job on a core and the start of the next: interrupt, driver, start of the new one.
    job_seconds: _Cost
    #: What several cores reach together, as a fraction of their number: they share the memory ports.
    multi_core_efficiency: Annotated[float, Field(gt=0, le=1)]
    #: The Python runner (VART through Python, input already pre-processed).
    host_python: HostOverhead
    #: The C++ runner with pre- and post-processing on the CPU (Vitis AI Library).
    host_cpp: HostOverhead
    #: Where the constants come from.
    origin: str = ""

    def to_json(self) -> str:
        """The profile as the text of a file that `load_profile` reads."""
        return json.dumps(self.model_dump(), indent=2) + "\n"


def profile_names() -> tuple[str, ...]:
    """Names of the boards that come with this program."""
    folder = resources.files("edgesearch.board_eval.targets")
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def load_profile(name_or_path: str | Path) -> BoardProfile:
    """The profile of a board that comes with this program, by name, or of a user's own, by the path of its JSON file.

    In a file, `dpu` is the name of an architecture or an object with the fields of `Dpu`. Raises TargetError.
    """
    text = _profile_text(name_or_path)
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise TargetError(f"board profile {str(name_or_path)!r} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise TargetError(f"board profile {str(name_or_path)!r} is not a JSON object")
    if isinstance(raw.get("dpu"), str):
        raw["dpu"] = load_dpu(raw["dpu"]).model_dump()
    try:
        return BoardProfile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"board profile {str(name_or_path)!r}: {where}: {first['msg']}"
        raise TargetError(f"{message} (given: {first['input']!r})" if first["type"] != "missing" else message) from error


def _profile_text(name_or_path: str | Path) -> str:
    name = str(name_or_path)
    if name in profile_names():
        return resources.files("edgesearch.board_eval.targets").joinpath(f"{name}.json").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix != ".json":
        raise TargetError(f"unknown board {name!r}; known are {', '.join(profile_names())}, or the path of a .json profile")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"board profile {name!r} cannot be read: {error}") from error
