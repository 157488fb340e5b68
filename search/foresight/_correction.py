"""What measurements of a study say of its simulated speeds: one factor on the DPU's time, one on the host's.

A simulated time of one image is D + H: the DPU with its job, and the program around it. With all cores busy it is the
longest of what the cores, the program's threads, its serial part and the host's processors take. A correction makes it a * D
+ g * H in all of these. Both factors are estimated by Bayes' rule for a line (C. M. Bishop 2006, 3.3): before anything is
measured each is 1, as uncertain as the timing model says it is, so that few measurements move them a little and many decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Board, HostRunner, SimulatedBoard

#: Half widths of 90 % intervals over standard deviations of a normal distribution.
_Z90 = 1.645
#: Standard deviations of both factors before anything is measured: the doubt of code that no measured file has (10 %), and of a
#: host's time (25 %), as `board_eval/timing/_certainty.py` has them for 90 % intervals.
_DPU_DOUBT, _HOST_DOUBT = 0.1 / _Z90, 0.25 / _Z90
#: How far one network's time lies from the law that fits all, relative to it, before residuals are known.
_SCATTER = 0.07
#: As many residuals as that guess is worth.
_SCATTER_WEIGHT = 4.0
#: No interval is wider: fps / (1 - error) must be a number.
_WIDEST = 0.9
#: No factor is smaller: a law that explains measurements so is none.
_LEAST = 0.05


@dataclass(frozen=True)
class Parts:
    """A simulated speed taken apart, in seconds for one image.

    dpu: DPU and job with one image in flight. host: the program around it. core: an image on one of several busy cores.
    spacing: what the host needs between two images, however many threads it has.
    """

    dpu: float
    host: float
    core: float
    cores: int = 1
    threads: int = 1
    spacing: float = 0.0

    def latency(self, dpu: float = 1.0, host: float = 1.0) -> float:
        """One image in flight, with a factor on each part."""
        return dpu * self.dpu + host * self.host

    def image(self, dpu: float = 1.0, host: float = 1.0) -> float:
        """Seconds between two images with every core busy, with a factor on each part."""
        return float(max(row @ (dpu, host) for row in self._bounds()))

    def rows(self) -> npt.NDArray[np.float64]:
        """(2, 2): what latency and image time, as simulated, take of the DPU's time and of the host's."""
        bound = max(self._bounds(), key=lambda row: float(row.sum()))
        return np.stack([np.array([self.dpu, self.host]), bound])

    def _bounds(self) -> list[npt.NDArray[np.float64]]:
        return [
            np.array([self.core / self.cores, 0.0]),
            np.array([self.core / self.threads, self.host / self.threads]),
            np.array([0.0, self.spacing]),
        ]


@dataclass(frozen=True)
class HostLaw:
    """What is known of the program that a simulated board is fed by. Without one all of a time is the DPU's."""

    runner: HostRunner | None = None
    cores: int = 1
    processors: int = 1

    @classmethod
    def of(cls, board: Board) -> HostLaw:
        """Of a board with a profile; of another nothing is known."""
        if not isinstance(board, SimulatedBoard):
            return cls()
        runner = board.profile.runner(board.runner)
        return cls(runner, min(board.profile.cores, runner.threads), board.profile.host_processors)

    def parts(self, figures: Mapping[str, Any], pixels: int) -> Parts:
        """Simulated figures (latency_ms, fps) of a network with so many pixels (height x width), taken apart."""
        latency, image = float(figures["latency_ms"]) * 1e-3, 1.0 / float(figures["fps"])
        host = self.runner
        if host is None:
            return Parts(dpu=latency, host=0.0, core=image)
        around = min(host.of(pixels), latency)
        dpu = latency - around
        # What bounds the image's time tells the time of a core: the cores, or the threads; where it is the host's spacing, a
        # core is taken to be as fast as one alone.
        by_cores, by_threads = self.cores * image, host.threads * image - around
        core = by_cores if (around + by_cores) / host.threads <= image * (1 + 1e-9) else by_threads
        spacing = host.spacing(pixels, self.processors)
        if spacing >= image * (1 - 1e-9):
            core = min(core, dpu)
        return Parts(dpu, around, max(core, 0.0), self.cores, host.threads, spacing)


@dataclass(frozen=True)
class Pair:
    """A network whose speed was simulated and measured; measured times in seconds for one image."""

    parts: Parts
    latency: float
    image: float


@dataclass(frozen=True)
class Correction:
    """Factors on the DPU's and the host's time, found from so many measurements, and how sure they are."""

    dpu: float = 1.0
    host: float = 1.0
    measurements: int = 0
    covariance: tuple[tuple[float, float], tuple[float, float]] = ((_DPU_DOUBT**2, 0.0), (0.0, _HOST_DOUBT**2))
    scatter: float = _SCATTER

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Correction:
        """The factors after these measurements; 1 and 1 without any."""
        known = list(pairs)
        if not known:
            return cls()
        rows = np.concatenate([pair.parts.rows() / np.array([[pair.latency], [pair.image]]) for pair in known])
        prior = np.diag([_DPU_DOUBT**-2, _HOST_DOUBT**-2])
        covariance = np.linalg.inv(prior + rows.T @ rows / _SCATTER**2)
        mean = covariance @ (prior @ np.ones(2) + rows.sum(axis=0) / _SCATTER**2)
        dpu, host = (max(float(factor), _LEAST) for factor in mean)
        residuals = np.array(
            [
                ratio - 1.0
                for pair in known
                for ratio in (pair.parts.latency(dpu, host) / pair.latency, pair.parts.image(dpu, host) / pair.image)
            ]
        )
        scatter = math.sqrt((_SCATTER_WEIGHT * _SCATTER**2 + float(residuals @ residuals)) / (_SCATTER_WEIGHT + len(residuals)))
        (a, b), (c, d) = covariance.tolist()
        return cls(dpu, host, len(known), ((a, b), (c, d)), scatter)

    def apply(self, figures: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
        """The figures with corrected fps, latency_ms and latency_fps; their intervals are never narrower than they were."""
        corrected = dict(figures)
        if not self.measurements:
            return corrected
        latency, image = parts.latency(self.dpu, self.host), parts.image(self.dpu, self.host)
        return corrected | {
            "fps": 1.0 / image,
            "latency_ms": latency * 1e3,
            "latency_fps": 1.0 / latency,
            "fps_error": self._error(parts.rows()[1] / image, figures.get("fps_error")),
            "latency_error": self._error(parts.rows()[0] / latency, figures.get("latency_error")),
        }

    def _error(self, row: npt.NDArray[np.float64], known: float | None) -> float:
        """Half the 90 % interval of a corrected time, relative to it: the factors' doubt, and one network's scatter.

        `row` is what the time takes of the DPU's and of the host's, relative to it; `known`: the interval before.
        """
        found = _Z90 * math.hypot(math.sqrt(float(row @ np.array(self.covariance) @ row)), self.scatter)
        return min(max(known or 0.0, found), _WIDEST)

    def to_json(self) -> dict[str, float]:
        """What a trial keeps of it."""
        return {"dpu": round(self.dpu, 6), "host": round(self.host, 6), "measurements": self.measurements}
