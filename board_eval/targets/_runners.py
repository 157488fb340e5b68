"""The program around the DPU: what it adds to one image, and what it lets several cores reach together.

The laws: one image in flight takes host + job + DPU. With `cores` busy, the DPU's time of an image is longer by
`Contention.slowdown`, because the cores share the memory; images per second are bounded by the cores, by the threads of the
program, and by the part of its work that only one thread does at a time.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Contention", "HostRunner"]

_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Contention(_Model):
    """How much longer an image takes on a core for each further core that is busy.

    The traffic is that of one core while it runs alone, in GB/s: bytes of the network's LOADs and SAVEs over its DPU time.
    """

    fixed: _Cost = 0.0
    per_loaded_gb_s: _Cost = 0.0
    per_saved_gb_s: _Cost = 0.0

    def slowdown(self, cores: int, loaded_gb_s: float, saved_gb_s: float) -> float:
        """DPU time with `cores` busy over DPU time alone; 1 for one core."""
        each = self.fixed + self.per_loaded_gb_s * loaded_gb_s + self.per_saved_gb_s * saved_gb_s
        return 1.0 + (cores - 1) * each


class HostRunner(_Model):
    """A program that feeds the DPU: seconds per image, threads, and how well its times are known."""

    #: Per image: pre- and post-processing that does not depend on its size, and the call.
    seconds: _Cost
    #: Per pixel of the input image (height x width).
    seconds_per_pixel: _Cost = 0.0
    #: What one thread at a time does of it: an interpreter's lock, a queue.
    serial_seconds: _Cost = 0.0
    #: Threads when all cores are to be busy.
    threads: Annotated[int, Field(ge=1, le=1024)] = 8
    contention: Contention = Contention()
    #: Half widths of the intervals that hold 90 % of measurements of networks that nothing was fitted to, relative to the
    #: predicted time: one image in flight, and all cores busy. 0: not known.
    latency_error: _Share = 0.0
    throughput_error: _Share = 0.0
    #: What its figures were fitted on.
    origin: str = ""

    def of(self, pixels: int) -> float:
        """Seconds for an image of `pixels` pixels (height x width)."""
        return self.seconds + self.seconds_per_pixel * pixels
