"""A compiled xmodel as a whole: its bytes, what is in them, what it computes and how long that takes."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler import unseen
from edgesearch.board_eval.deployment._execute import execute_code, integers_for
from edgesearch.board_eval.graph import Array
from edgesearch.board_eval.isa import Instruction, Load, Save, decode
from edgesearch.board_eval.targets import DPUS, BoardProfile, Dpu, Fingerprint, dpu_of_fingerprint
from edgesearch.board_eval.timing import LayeredCode, MeasuredCode, Timing, time_code
from edgesearch.board_eval.xmodel import CompiledModel, CompiledTensor, read_compiled
from edgesearch.errors import MeasurementError, TargetError, XmodelError
from edgesearch.files import write_atomically

__all__ = ["CompiledXmodel"]

_DPU_NAME = "DPUCZDX8G_ISA1_"


@dataclass(frozen=True)
class CompiledXmodel:
    """A compiled xmodel of one input: this program's own, or AMD's. `read` and `compile_xmodel` make it."""

    model: CompiledModel
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> CompiledXmodel:
        """The file at `path`.

        Raises XmodelError when it cannot be read or is not compiled for a DPUCZDX8G of instruction set 1.
        """
        model = read_compiled(path)
        if len(model.inputs) != 1:
            raise XmodelError(f"{path} has {len(model.inputs)} inputs; only files of one input are executed and timed")
        read = cls(model, Path(path).read_bytes())
        try:
            _ = read.program, read.dpu
        except (XmodelError, TargetError) as error:
            raise XmodelError(f"{path} cannot be read as a compiled xmodel: {error}") from error
        return read

    def write(self, path: str | Path) -> None:
        """Write the file. It appears whole or not at all; raises XmodelError when it cannot be written."""
        try:
            write_atomically(Path(path), self.content)
        except OSError as error:
            raise XmodelError(f"{path} cannot be written: {error.strerror or error}") from error

    # -- what is in it

    @property
    def name(self) -> str:
        """The network's."""
        return self.model.name

    @property
    def input(self) -> CompiledTensor:
        """What an application writes: its shape (H, W, C) and fix position."""
        return self.model.inputs[0]

    @property
    def outputs(self) -> tuple[CompiledTensor, ...]:
        """What an application reads."""
        return tuple(self.model.outputs)

    @cached_property
    def program(self) -> tuple[Instruction, ...]:
        """The instructions, END the last."""
        return decode(self.model.code)

    @cached_property
    def dpu(self) -> Dpu:
        """The DPU that it is for: that of the fingerprint, or of the name where a file has none."""
        if self.model.fingerprint:
            return dpu_of_fingerprint(Fingerprint(self.model.fingerprint))
        size = self.model.dpu_name.removeprefix(_DPU_NAME).partition("_")[0]
        if size not in DPUS:
            raise XmodelError(f"it is for a DPU {self.model.dpu_name[:80]!r}, expected one of the sizes {', '.join(DPUS)}")
        return DPUS[size]

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def instructions(self) -> Mapping[str, int]:
        """Instructions by mnemonic, in the order of the opcodes."""
        counts = Counter(type(one) for one in self.program)
        return {kind.MNEMONIC: counts[kind] for kind in sorted(counts, key=lambda kind: kind.OPCODE)}

    @cached_property
    def loaded_bytes(self) -> int:
        """Bytes that one image loads from external memory."""
        return sum(one.length * one.channel for one in self.program if isinstance(one, Load))

    @cached_property
    def saved_bytes(self) -> int:
        """Bytes that one image saves to external memory."""
        return sum(one.length * one.channel for one in self.program if isinstance(one, Save))

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """What of its instructions no file of AMD's compiler has that was measured on a board, in words."""
        return unseen(self.program)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of weights and biases, gaps included."""
        return sum(len(register.parameters) for register in self.model.registers.values())

    def facts(self) -> dict[str, Any]:
        """What is in it, as JSON values."""
        return {
            "network": self.name,
            "sha256": self.sha256,
            "dpu": self.dpu.name,
            "fingerprint": str(Fingerprint(self.model.fingerprint)),
            "instructions": dict(self.instructions),
            "code_bytes": len(self.model.code),
            "parameter_bytes": self.parameter_bytes,
            "moved_bytes": {"loaded": self.loaded_bytes, "saved": self.saved_bytes},
            "unseen": list(self.unseen),
        }

    # -- what it does

    def integers(self, images: npt.NDArray[np.generic]) -> npt.NDArray[np.int8]:
        """What enters the DPU, int8 (N, H, W, C), for images as `execute` takes them; raises QuantizationError for others."""
        return integers_for(self.input, images)

    def execute(self, images: npt.NDArray[np.generic]) -> Array:
        """Logits (N, values), float32, of its code in the machine, bit for bit the DPU's.

        `images` is (N, H, W, C): float32, normalised, which the input's fix position rounds (half up, saturating); or int8.
        Raises QuantizationError for images that do not fit, XmodelError for code that the DPU does not execute, or several
        outputs.
        """
        if len(self.outputs) != 1:
            raise XmodelError(f"{self.name!r} has {len(self.outputs)} outputs, not one; execute_all gives them by name")
        (result,) = self.execute_all(images).values()
        return result.reshape(len(result), -1)

    def execute_all(self, images: npt.NDArray[np.generic]) -> dict[str, Array]:
        """Every output by name, (N, ...) in its own shape; otherwise like `execute`."""
        return execute_code(self.model, self.program, self.dpu, images)

    def time(self, profile: BoardProfile, *, runner: str | None = None) -> Timing:
        """Latency and throughput of its code on a board, without a table by layer; `runner` is that of `time_graph`.

        Raises MeasurementError for a board with a DPU of another size.
        """
        measured = self.measured_on(profile)
        return time_code(measured.program, profile, pixels=measured.pixels, runner=runner, layers=False)

    def measured_on(self, profile: BoardProfile) -> MeasuredCode:
        """Its code, as `calibrate` takes what was measured; raises MeasurementError for a board with a DPU of another size."""
        own, theirs = ((dpu.pixel_parallel, dpu.input_parallel, dpu.output_parallel) for dpu in (self.dpu, profile.dpu))
        if own != theirs:
            raise MeasurementError(
                f"{self.name!r} is compiled for a {self.dpu.name}, and the DPU of {profile.name!r} is a {profile.dpu.name}, "
                "which does not run it; give --board with the DPU that was measured"
            )
        return MeasuredCode(
            LayeredCode(self.name, self.program, (0,) * len(self.program), ()), math.prod(self.input.shape[:-1])
        )
