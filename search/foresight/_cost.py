"""What stages cost: expected seconds, from what a stage computes, and from the seconds that earlier stages took.

Before anything is recorded, a pass of one image costs its multiply-accumulates at the pace of large convolutions, and a fixed
time that small networks are bound by. What is recorded corrects this: the logarithm of (recorded / expected) is a linear
function, with a normal prior around zero, of what is the machine's, the kind's and the architecture's own. So one slow kind
does not make the others slow, and a few records say something of kinds that have none.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgesearch.objectives import Work

__all__ = ["CostModel"]

Array = NDArray[np.float64]

#: Multiply-accumulates per second and core that training large convolutions reaches on x86, in bfloat16 (AVX512-BF16) and in
#: single precision.
_BFLOAT16_MACS, _FLOAT_MACS = 75e9, 30e9
#: Seconds of a pass of one image, in batches, however small its network is.
_PASS_SECONDS = 1.6e-5
#: Seconds of a stage, however little it does.
_STAGE_SECONDS = 0.05
#: With n threads a stage is n ** _THREADS times as fast.
_THREADS = 0.62
#: Standard deviations of what corrects the logarithm: the machine, a kind, a kind's dependence on size, an architecture.
_MACHINE, _KIND, _SIZE, _ARCHITECTURE = 1.0, 1.0, 0.3, 0.5
#: And of what is left.
_NOISE = 0.3
#: A record farther from what was expected than this factor counts as this far: a machine that slept, a stage that resumed.
_FARTHEST = math.log(30.0)
#: Seconds at which a kind's dependence on size turns.
_PIVOT = 10.0


class CostModel:
    """Expected seconds of stages; `bfloat16`: whether they are trained in it."""

    def __init__(self, *, bfloat16: bool = False) -> None:
        self._macs_per_second = _BFLOAT16_MACS if bfloat16 else _FLOAT_MACS
        #: Stages that were observed.
        self.observations = 0
        self._sorts: dict[tuple[str, str], int] = {}  # kinds with architectures, as `sort` numbers them
        self._columns: dict[str, int] = {}
        self._precision = np.zeros((0, 0))  # of the prior, and what was observed
        self._moment = np.zeros(0)
        self._corrections: tuple[Array, Array] | None = None  # of each sort: constant, and by the logarithm of the size

    def sort(self, work: Work) -> int:
        """A number that stages have in common which are corrected alike."""
        architecture = "" if work.student is None else work.student.architecture
        return self._sorts.setdefault((work.kind, architecture), len(self._sorts))

    def prior(self, work: Work, macs: float) -> float:
        """Expected seconds before anything is recorded; `macs`: of one image in the student's whole network."""
        a_pass = work.share * macs / self._macs_per_second + _PASS_SECONDS
        return float(_STAGE_SECONDS + work.passes * a_pass / work.threads**_THREADS)

    def observe(self, work: Work, macs: float, seconds: float) -> None:
        """Learn that a stage took `seconds`."""
        if not seconds > 0:
            return
        prior, architecture = self.prior(work, macs), None if work.student is None else work.student.architecture
        features = {
            self._column("machine", _MACHINE): 1.0,
            self._column(f"kind {work.kind}", _KIND): 1.0,
            self._column(f"size {work.kind}", _SIZE): math.log(prior / _PIVOT),
        }
        if architecture is not None:
            features[self._column(f"architecture {architecture}", _ARCHITECTURE)] = 1.0
        row = np.zeros(len(self._columns))
        row[list(features)] = list(features.values())
        surprise = min(max(math.log(max(seconds, 1e-3) / prior), -_FARTHEST), _FARTHEST)
        self._precision += np.outer(row, row) / _NOISE**2
        self._moment += row * surprise / _NOISE**2
        self._corrections = None
        self.observations += 1

    def seconds(self, work: Work, macs: float) -> float:
        """Expected seconds of a stage."""
        return float(self.many(np.array([self.sort(work)]), np.array([self.prior(work, macs)]))[0])

    def many(self, sorts: NDArray[np.intp], priors: Array) -> Array:
        """Expected seconds (stages) of stages of these sorts that were expected to take `priors`."""
        constant, slope = self._corrected()
        correction = constant[sorts] + slope[sorts] * np.log(priors / _PIVOT)
        return np.asarray(priors * np.exp(np.clip(correction, -_FARTHEST, _FARTHEST)))

    def _corrected(self) -> tuple[Array, Array]:
        if self._corrections is None or len(self._corrections[0]) < len(self._sorts):
            weights = np.linalg.solve(self._precision, self._moment).tolist() if self._columns else []
            named = {name: weights[column] for name, column in self._columns.items()}
            machine = named.get("machine", 0.0)
            constant = [machine + named.get(f"kind {k}", 0.0) + named.get(f"architecture {a}", 0.0) for k, a in self._sorts]
            self._corrections = np.array(constant), np.array([named.get(f"size {kind}", 0.0) for kind, _ in self._sorts])
        return self._corrections

    def _column(self, name: str, deviation: float) -> int:
        if name not in self._columns:
            self._columns[name] = count = len(self._columns)
            self._precision = np.pad(self._precision, (0, 1))
            self._precision[count, count] = 1 / deviation**2
            self._moment = np.append(self._moment, 0.0)
        return self._columns[name]
