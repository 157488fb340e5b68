"""How sure a predicted time is: half widths of intervals that are meant to hold 90 % of measurements, relative to the time."""

from __future__ import annotations

import math

from edgesearch.board_eval.targets import BoardProfile, HostRunner
from edgesearch.board_eval.timing._throughput import BusyCores

#: The size that nearly all published measurements are of, by its operations per cycle: B4096.
MEASURED_OPERATIONS = 4096
#: Half width of the intervals of other sizes: no measurement of one was compared with. (A model of this kind was found 22 % too
#: fast on eight networks of a B1600, Ultra96, compiled in 2019.)
OTHER_SIZE_ERROR = 0.25
#: Half width of the interval of a host's time: two Python programs on one board need 0.14 and 0.25 ms around the same call.
HOST_ERROR = 0.25
#: Half width of the interval of code that is not AMD's, set by hand: none has been measured, and its engines work side by side
#: more than those of the code to which the costs were fitted.
OTHER_CODE_ERROR = 0.1
#: GB/s that the measured networks load on one core at most, and how much wider the interval gets for each beyond.
MEASURED_TRAFFIC = 3.4
TRAFFIC_ERROR = 0.1
#: No interval is wider than this.
MOST_ERROR = 0.5


def interval(fps: float, error: float) -> tuple[float, float]:
    """Frames per second when the time is `error` longer, and shorter."""
    return fps / (1 + error), fps / (1 - error)


def latency_error(
    host_s: float, latency_s: float, host: HostRunner, profile: BoardProfile, *, code_error: float = 0.0
) -> float:
    """Of one image in flight; 0 where nothing is known. The larger the host's share, the less sure.

    `code_error` is that of the DPU's own time, beside what was found of AMD's code.
    """
    share = host_s / latency_s
    return _error(host.latency_error, math.hypot(HOST_ERROR * share, code_error * (1 - share)), profile)


def throughput_error(
    busy: BusyCores, host: HostRunner, pixels: int, profile: BoardProfile, *, code_error: float = 0.0
) -> float:
    """Of all cores; 0 where nothing is known.

    Less sure where the host is the bound or must keep more than one thread busy, and for traffic beyond what was measured.
    """
    if busy.bound_by_host(host, pixels):
        return _error(host.throughput_error, HOST_ERROR, profile)
    beyond = max(0.0, busy.loaded_gb_s - MEASURED_TRAFFIC) if busy.cores > 1 else 0.0
    crowd = max(0.0, busy.fps(host, pixels) * host.of(pixels) - 1.0)
    return _error(host.throughput_error, math.hypot(TRAFFIC_ERROR * beyond + HOST_ERROR * crowd, code_error), profile)


def _error(known: float, doubt: float, profile: BoardProfile) -> float:
    """The half width of an interval: what is known of networks like the measured ones, and what this one leaves in doubt."""
    if not known:
        return 0.0
    measured = profile.dpu.operations_per_cycle == MEASURED_OPERATIONS
    return min(MOST_ERROR, math.hypot(known, doubt, 0.0 if measured else OTHER_SIZE_ERROR))
