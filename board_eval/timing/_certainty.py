"""How sure a predicted time is: half widths of intervals that are meant to hold 90 % of measurements, relative to the time.

What is known of networks of one kind on a board with a runner is a number in the board's profile: `benchmarks/make_profiles.py`
takes it from the errors of networks whose family no constant was fitted to. What a network leaves in doubt beyond those, the
functions here say; both are independent and add up as squares do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgesearch.board_eval.graph import Depthwise, Graph
from edgesearch.board_eval.targets import BoardProfile, Dpu, HostRunner, NetworkKind
from edgesearch.board_eval.timing._fusion import Layer
from edgesearch.board_eval.timing._throughput import BusyCores

#: The size that nearly all published measurements are of, by its operations per cycle: B4096.
MEASURED_OPERATIONS = 4096
#: Half width of the intervals of other sizes: it holds seven of eight networks on a B1600 (Ultra96, 2019), the only ones that
#: were measured. They took 15 to 45 % longer than predicted here; on a B4096 the same networks and tools took 8 to 32 % longer,
#: so more than half of it is the compiler of that year and not the size (benchmarks/timing_boards.py).
OTHER_SIZE_ERROR = 0.47
#: Half width of the interval of a host's time: two Python programs on one board need 0.14 and 0.25 ms around the same call.
HOST_ERROR = 0.25
#: Half width of the interval of code that is not AMD's, set by hand: none has been measured, and its engines work side by side
#: more than those of the code to which the costs were fitted.
OTHER_CODE_ERROR = 0.1
#: How far pre-activation ResNets are from what is predicted: networks with batch-norms that stand alone, memory to memory.
SERIAL_ERROR = 0.065
#: GB/s that the measured networks load on one core at most, and how much wider the interval gets for each beyond.
MEASURED_TRAFFIC = 3.4
TRAFFIC_ERROR = 0.1
#: No interval is wider than this.
MOST_ERROR = 0.5


def kind_of(layers: Iterable[Layer]) -> NetworkKind:
    """The kind of a network, as tables of errors name it."""
    own = (layer for layer in layers if not layer.serial)
    return "depthwise" if any("depthwise" in (layer.kind, layer.post) for layer in own) else "dense"


def kind_of_network(graph: Graph) -> NetworkKind:
    """The same of a network that no compiler has changed yet. A batch-norm that stands alone makes none a depthwise one."""
    return "depthwise" if any(isinstance(node, Depthwise) and not node.scale for node in graph) else "dense"


def interval(fps: float, error: float) -> tuple[float, float]:
    """Frames per second when the time is `error` longer, and shorter."""
    return fps / (1 + error), fps / (1 - error)


def is_measured(dpu: Dpu) -> bool:
    """Whether files of today's compiler were measured on this size of the DPU."""
    return dpu.operations_per_cycle == MEASURED_OPERATIONS


def code_doubt(layers: Iterable[Layer], profile: BoardProfile, *, of_amd: bool) -> float:
    """Of the DPU's own time, beside what was found of measured networks of AMD's code on a B4096."""
    serial = any(layer.serial for layer in layers)
    doubts = (0.0 if of_amd else OTHER_CODE_ERROR, SERIAL_ERROR * serial, 0.0 if is_measured(profile.dpu) else OTHER_SIZE_ERROR)
    return math.hypot(*doubts)


def latency_doubt(host_s: float, latency_s: float, code: float) -> float:
    """Of one image in flight: the larger the host's share, the less sure. `code` is the doubt of the DPU's own time."""
    share = host_s / latency_s if latency_s else 0.0
    return math.hypot(HOST_ERROR * share, code * (1 - share))


def throughput_doubt(busy: BusyCores, host: HostRunner, pixels: int, code: float) -> float:
    """Of all cores: less sure where the host is the bound or must keep more than one thread busy, and for unseen traffic."""
    if busy.bound_by_host(host, pixels):
        return HOST_ERROR
    beyond = max(0.0, busy.loaded_gb_s - MEASURED_TRAFFIC) if busy.cores > 1 else 0.0
    crowd = max(0.0, busy.fps(host, pixels) * host.of(pixels) - 1.0)
    return math.hypot(TRAFFIC_ERROR * beyond + HOST_ERROR * crowd, code)


def half_width(known: float, doubt: float) -> float:
    """What is known of networks like this one, and what it leaves in doubt; 0 where nothing is known."""
    return min(MOST_ERROR, math.hypot(known, doubt)) if known else 0.0
