"""The program around the DPU: what it adds to one image, and what it lets several cores reach together.

The laws: one image in flight takes host + job + DPU. With `cores` busy, the DPU's time of an image is longer by
`Contention.slowdown`, because the cores share the memory; images per second are bounded by the cores, by the threads of the
program, and by the part of its work that only one thread does at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

__all__ = ["Contention", "HalfWidths", "HostRunner", "NetworkKind"]

#: What an interval depends on beside board and runner: whether a network has depthwise convolutions.
NetworkKind: TypeAlias = Literal["depthwise", "dense"]

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


class HalfWidths(_Model):
    """Half widths of 90 % intervals, relative to the predicted time: one image in flight, and all cores busy."""

    latency: _Share
    throughput: _Share


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
    #: The same for kinds of networks that were measured on this board with this runner; the two above hold for the others.
    errors_by_kind: Mapping[NetworkKind, HalfWidths] = {}
    #: What its figures were fitted on.
    origin: str = ""

    @model_serializer(mode="wrap")
    def _write(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the table of kinds where there is none: profiles of the user's own keep the keys that they had."""
        content: dict[str, Any] = plain(self)
        if not self.errors_by_kind:
            content.pop("errors_by_kind", None)
        return content

    def widths(self, kind: NetworkKind) -> HalfWidths:
        """Half widths of the intervals of a kind of networks; 0 where nothing is known."""
        return self.errors_by_kind.get(kind) or HalfWidths(latency=self.latency_error, throughput=self.throughput_error)

    def of(self, pixels: int) -> float:
        """Seconds for an image of `pixels` pixels (height x width)."""
        return self.seconds + self.seconds_per_pixel * pixels
