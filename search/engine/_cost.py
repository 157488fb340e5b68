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
        self._columns: dict[str, int] = {}
        self._precision = np.zeros((0, 0))  # of the prior, and what was observed
        self._moment = np.zeros(0)
        self._weights: NDArray[np.float64] | None = np.zeros(0)

    def observe(self, work: Work, macs: float, seconds: float) -> None:
        """Learn that a stage took `seconds`; `macs`: of one image in the student's whole network."""
        if not seconds > 0:
            return
        prior = self._prior(work, macs)
        features = [(self._column(name, deviation), value) for name, value, deviation in _features(work, prior)]
        row = np.zeros(len(self._columns))
        for column, value in features:
            row[column] = value
        surprise = min(max(math.log(max(seconds, 1e-3) / prior), -_FARTHEST), _FARTHEST)
        self._precision += np.outer(row, row) / _NOISE**2
        self._moment += row * surprise / _NOISE**2
        self._weights = None
        self.observations += 1

    def seconds(self, work: Work, macs: float) -> float:
        """Expected seconds of a stage."""
        if self._weights is None:
            self._weights = np.asarray(np.linalg.solve(self._precision, self._moment), dtype=np.float64)
        prior, correction, weights = self._prior(work, macs), 0.0, self._weights
        for name, value, _ in _features(work, prior):
            if name in self._columns:
                correction += value * float(weights[self._columns[name]])
        return float(prior * math.exp(min(max(correction, -_FARTHEST), _FARTHEST)))

    def _prior(self, work: Work, macs: float) -> float:
        a_pass = work.share * macs / self._macs_per_second + _PASS_SECONDS
        return float(_STAGE_SECONDS + work.passes * a_pass / work.threads**_THREADS)

    def _column(self, name: str, deviation: float) -> int:
        if name not in self._columns:
            self._columns[name] = count = len(self._columns)
            self._precision = np.pad(self._precision, (0, 1))
            self._precision[count, count] = 1 / deviation**2
            self._moment = np.append(self._moment, 0.0)
        return self._columns[name]


def _features(work: Work, prior: float) -> list[tuple[str, float, float]]:
    """(name, value, standard deviation of its weight)."""
    features = [
        ("machine", 1.0, _MACHINE),
        (f"kind {work.kind}", 1.0, _KIND),
        (f"size {work.kind}", math.log(prior / _PIVOT), _SIZE),
    ]
    if work.student is not None:
        features.append((f"architecture {work.student.architecture}", 1.0, _ARCHITECTURE))
    return features
