"""What a board says about a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Measurement"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Speed, and what else a board gives. None: not available, or not asked for."""

    #: One image in flight: from the call of the runner to its result, the host's work included.
    latency_s: float
    #: Images per second with every core busy.
    throughput_fps: float
    #: Half the width of the 90 % interval of the throughput's time, relative to it; None: measured, or not known.
    fps_error: float | None = None
    #: The same for one image in flight.
    latency_error: float | None = None
    #: Images whose best class is their label, of `images` that were run.
    correct: int | None = None
    images: int = 0
    #: Mean power while the throughput was measured.
    power_w: float | None = None
    #: When it was measured, ISO 8601 with its zone; None: a pure function of network and board, so that no date matters.
    measured_at: str | None = None
    #: How it was measured: board, DPU, runner, threads, simulated or not.
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Top-1, 0..1."""
        return None if self.correct is None or not self.images else self.correct / self.images

    @property
    def latency_fps(self) -> float:
        """Images per second, one thread, one image in flight."""
        return 1.0 / self.latency_s

    @property
    def energy_j(self) -> float | None:
        """Joules per image."""
        return None if self.power_w is None else self.power_w / self.throughput_fps

    def figures(self) -> dict[str, float]:
        """Fps, latency_ms and latency_fps; fps_error, latency_error and joules per image where the board gives them."""
        speed = {"fps": self.throughput_fps, "latency_ms": self.latency_s * 1e3, "latency_fps": self.latency_fps}
        more = {"fps_error": self.fps_error, "latency_error": self.latency_error, "joules": self.energy_j}
        return speed | {name: value for name, value in more.items() if value is not None}
