"""The program around the DPU: what it adds to one image, and what it lets several cores reach together.

The laws: one image in flight takes host + job + DPU. With `cores` busy, the DPU's time of an image is longer by
`Contention.slowdown`, because the cores share the memory; images per second are bounded by the cores, by the threads of the
program, by the part of its work that only one thread does at a time, and by the host's own processors, which its threads share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from edgesearch.settings import Settings

__all__ = ["Contention", "HalfWidths", "HostRunner", "NetworkKind"]

#: What an interval depends on beside board and runner: whether a network has depthwise convolutions.
NetworkKind: TypeAlias = Literal["depthwise", "dense"]

_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
_Share = Annotated[float, Field(ge=0, lt=1, strict=True)]


class Contention(Settings):
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


class HalfWidths(Settings):
    """Half widths of 90 % intervals, relative to the predicted time: one image in flight, and all cores busy."""

    latency: _Share
    throughput: _Share


#: Fields of a runner that its first profiles lacked.
_LATER = {"errors_by_kind", "preprocess_seconds", "preprocess_seconds_per_pixel", "postprocess_seconds"}


class HostRunner(Settings):
    """A program that feeds the DPU: seconds per image, threads, and how well its times are known."""

    #: Per image: the call, and all else that does not depend on its size and is not named below.
    seconds: _Cost
    #: Per pixel of the input image (height x width): handing it over, and all else that is not named below.
    seconds_per_pixel: _Cost = 0.0
    #: What makes a network's input of what a camera or a file gives, and an answer of its logits, where these are known apart.
    #: Published times do not part them from the call; a user who measured theirs adds them here.
    preprocess_seconds: _Cost = 0.0
    preprocess_seconds_per_pixel: _Cost = 0.0
    postprocess_seconds: _Cost = 0.0
    #: What one thread at a time does of it: an interpreter's lock, a queue.
    serial_seconds: _Cost = 0.0
    #: Threads when all cores are to be busy.
    threads: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
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
        """Without what is not set of what came later: a user's own profile keeps the key that it had."""
        content: dict[str, Any] = plain(self)
        return {name: value for name, value in content.items() if value or name not in _LATER}

    def widths(self, kind: NetworkKind) -> HalfWidths:
        """Half widths of the intervals of a kind of networks; 0 where nothing is known."""
        return self.errors_by_kind.get(kind) or HalfWidths(latency=self.latency_error, throughput=self.throughput_error)

    def of(self, pixels: int) -> float:
        """Seconds for an image of `pixels` pixels (height x width)."""
        return self.seconds + self.seconds_per_pixel * pixels + self.around_the_call(pixels)

    def around_the_call(self, pixels: int) -> float:
        """Of these, pre- and post-processing, as far as they are known apart."""
        return self.preprocess_seconds + self.preprocess_seconds_per_pixel * pixels + self.postprocess_seconds

    def spacing(self, pixels: int, processors: int) -> float:
        """Seconds between two images that the host needs at least, however many threads wait for its `processors`."""
        return max(self.serial_seconds, self.of(pixels) / processors)
