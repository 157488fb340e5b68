"""Files of two compilers for one network: what they compute, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.deployment._compiled_xmodel import CompiledXmodel
from edgesearch.board_eval.targets import BoardProfile
from edgesearch.errors import SettingsError, XmodelError

__all__ = ["CodeCost", "CompilerComparison", "compare_compilers"]


@dataclass(frozen=True)
class CodeCost:
    """What a file's code costs. Times are predictions on a board."""

    instructions: int
    code_bytes: int
    parameter_bytes: int
    moved_bytes: int
    dpu_us: float
    fps: float
    #: Half the 90 % interval of the throughput's time, relative to it; None: not known.
    fps_error: float | None


@dataclass(frozen=True)
class CompilerComparison:
    """Two files of one network. `equal`: of the images, those for which both give the same logits."""

    costs: Mapping[str, CodeCost]
    images: int
    equal: int = 0
    #: Largest difference of a logit, in steps of the output's fix position.
    largest: float = 0.0
    #: Why the logits were not compared; "" where they were.
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; null for logits that were not compared."""
        known = not self.problem
        return {
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "images": self.images,
            "equal_images": self.equal if known else None,
            "largest_difference": self.largest if known else None,
            "problem": self.problem or None,
        }

    def lines(self) -> list[str]:
        """In words, for people."""
        width = max(map(len, self.costs))
        table = [
            f"{name:<{width}}  {cost.instructions:,} instructions, {cost.code_bytes:,} bytes of code, {cost.moved_bytes:,} "
            f"bytes moved, {cost.dpu_us:,.1f} us on the DPU, {cost.fps:,.0f} FPS"
            + (f" ±{cost.fps_error:.0%}" if cost.fps_error else "")
            for name, cost in self.costs.items()
        ]
        if self.problem:
            return [*table, f"logits not compared: {self.problem}"]
        same = f"logits in simulation: equal on {self.equal} of {self.images} images"
        return [*table, same if self.equal == self.images else f"{same}, apart by up to {self.largest:g} steps"]


def compare_compilers(
    files: Mapping[str, CompiledXmodel], images: npt.NDArray[np.generic], profile: BoardProfile, *, runner: str | None = None
) -> CompilerComparison:
    """Compare two files, by their compilers' names: logits in the machine on `images`, instructions, bytes, predicted time.

    `images` are those of `CompiledXmodel.execute`. Code that the machine does not execute is a `problem`, not an error. Raises
    QuantizationError for images that do not fit, SettingsError unless `files` are two.
    """
    if len(files) != 2:
        raise SettingsError(f"`files` has {len(files)} files, expected two")
    costs = {name: _cost(xmodel, profile, runner) for name, xmodel in files.items()}
    one, other = files.values()
    shapes = [(file.input.shape, file.input.fix, [(out.shape, out.fix) for out in file.outputs]) for file in files.values()]
    try:
        if shapes[0] != shapes[1]:
            raise XmodelError("shapes or fix positions of inputs or outputs differ")
        steps = [np.ldexp(file.execute(images), file.outputs[0].fix) for file in (one, other)]
    except XmodelError as error:
        return CompilerComparison(costs, len(images), problem=str(error))
    apart = np.abs(steps[0] - steps[1])
    return CompilerComparison(costs, len(images), int((apart.max(axis=1) == 0).sum()), float(apart.max()))


def _cost(xmodel: CompiledXmodel, profile: BoardProfile, runner: str | None) -> CodeCost:
    timing = xmodel.time(profile, runner=runner)
    return CodeCost(
        instructions=len(xmodel.program),
        code_bytes=len(xmodel.model.code),
        parameter_bytes=xmodel.parameter_bytes,
        moved_bytes=xmodel.loaded_bytes + xmodel.saved_bytes,
        dpu_us=round(timing.dpu_s * 1e6, 3),
        fps=round(timing.throughput_fps, 3),
        fps_error=round(timing.throughput_error, 4) or None,
    )
