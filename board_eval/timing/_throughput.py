"""What several cores, and the program that feeds them, reach together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgesearch.board_eval.targets import BoardProfile, HostRunner


class Moves(Protocol):
    """A program, as far as what it moves goes."""

    @property
    def loaded_bytes(self) -> int:
        """Bytes loaded: parameters, feature maps and the image."""
        ...

    @property
    def saved_bytes(self) -> int:
        """Bytes saved."""
        ...


def traffic(program: Moves, dpu_s: float) -> tuple[float, float]:
    """GB/s that one core loads and saves while it runs a program of `dpu_s` seconds alone."""
    return (program.loaded_bytes / dpu_s / 1e9, program.saved_bytes / dpu_s / 1e9) if dpu_s > 0 else (0.0, 0.0)


@dataclass(frozen=True)
class BusyCores:
    """Several cores that work on the same network: how many, and what one image takes on each, job included.

    `loaded_gb_s` is what one of them loads from memory while it runs alone, in GB/s; `host_processors`, what feeds them.
    """

    cores: int
    core_s: float
    loaded_gb_s: float
    host_processors: int

    @classmethod
    def of(cls, program: Moves, dpu_s: float, cores: int, profile: BoardProfile, host: HostRunner) -> BusyCores:
        """A program that takes `dpu_s` seconds on one core, on `cores` of a board: a thread keeps one core busy at a time."""
        cores = min(cores, host.threads)
        loaded, saved = traffic(program, dpu_s)
        core_s = dpu_s * host.contention.slowdown(cores, loaded, saved) + profile.job_seconds
        return cls(cores, core_s, loaded, profile.host_processors)

    def fps(self, host: HostRunner, pixels: int) -> float:
        """Images per second: the least of what the cores and the host allow."""
        return min(self.cores / self.core_s, self.host_fps(host, pixels))

    def bound_by_host(self, host: HostRunner, pixels: int) -> bool:
        """Whether the cores would do more than the host gives them."""
        return self.host_fps(host, pixels) < self.cores / self.core_s

    def host_fps(self, host: HostRunner, pixels: int) -> float:
        """Images per second that the runner's threads, its serial part and the host's processors allow."""
        threads = host.threads / (host.of(pixels) + self.core_s)
        spacing = host.spacing(pixels, self.host_processors)
        return min(threads, 1.0 / spacing) if spacing else threads
