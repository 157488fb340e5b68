"""The constants of the program around the DPU that explain measurements best: its own time, and what its cores cost each other.

A constant is fitted where the rows decide it: a runner's time where two networks were measured with it, the part that grows
with the image where one image has one and a half times the pixels of another, contention and the serial part where two
networks were measured on several cores. Others stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.targets import BoardProfile, Contention, HostRunner
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._predicted import Network, cores_of, predict, runner_of, with_runner
from edgesearch.board_eval.timing._throughput import BusyCores, traffic

#: Throughputs of several cores that tell the parts of their contention apart; with fewer, its fixed part alone is fitted.
ENOUGH_FOR_TRAFFIC = 6
#: Networks that decide a constant at least: one may be what it likes.
_NETWORKS = 2
#: Times the pixels of the smallest image that the largest has, where rows tell what grows with the image from what does not.
_PIXELS = 1.5
#: A throughput this close to the host's bound is taken for it.
_CLOSE = 1.03
#: Another serial part is believed where rows are more than this off without it, and less than this share of that with it.
_USUAL, _CONVINCING = 0.02, 0.5


def decides_host(rows: Iterable[MeasurementRow]) -> bool:
    """Whether latencies of one runner are enough to fit its time to."""
    return len({row.network for row in rows}) >= _NETWORKS


def decides_slope(pixels: Iterable[int]) -> bool:
    """Whether images of these pixels (height x width) tell what grows with the image."""
    sizes = list(pixels)
    return max(sizes, default=0) >= _PIXELS * min(sizes, default=1)


def fit_host(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, runner: str
) -> BoardProfile:
    """Fixed and per-pixel time of a runner, never negative, by least squares of relative errors."""
    used = [row for row in rows if is_latency(row, runner, profile)]
    if not decides_host(used):
        return profile
    host: HostRunner = profile.runners[runner]
    seconds = np.array([1.0 / row.fps for row in used])
    known = [networks[row.network].dpu_s(profile) + profile.job_seconds for row in used]
    rest = seconds - known - [host.around_the_call(networks[row.network].pixels) for row in used]
    pixels = np.array([networks[row.network].pixels for row in used], dtype=np.float64)
    weights = family_weights(used) / seconds
    sloped = decides_slope(networks[row.network].pixels for row in used)
    terms = np.stack([np.ones(len(used)), pixels], axis=1) if sloped else np.ones((len(used), 1))
    if not sloped:  # the slope stays as it was
        rest = rest - host.seconds_per_pixel * pixels
    solution = _non_negative(terms * weights[:, None], rest * weights)
    slope = solution[1] if sloped else host.seconds_per_pixel
    return with_host_time(profile, runner, solution[0], slope, int(np.median(pixels)), fastest_of(rows, runner, profile))


def with_host_time(
    profile: BoardProfile, runner: str, seconds: float, slope: float, pixels: int, fastest: float
) -> BoardProfile:
    """The profile with another time of a runner's. Its serial part, which is a part of that, grows or shrinks with it.

    `pixels` (height x width) are those of an image that the time was found for; `fastest`: the most images a second that were
    seen of the runner, in which no serial part can have taken longer.
    """
    before = profile.runners[runner]
    changed = with_runner(profile, runner, seconds=seconds, seconds_per_pixel=slope)
    now, then = (p.runners[runner].of(pixels) for p in (changed, profile))
    serial = before.serial_seconds * now / then if then > 0 else before.serial_seconds
    return with_runner(changed, runner, serial_seconds=min(serial, 1 / fastest) if fastest > 0 else serial)


def fastest_of(rows: Iterable[MeasurementRow], runner: str, profile: BoardProfile) -> float:
    """The most images a second in the rows of a runner; 0 without any."""
    return max((row.fps for row in rows if runner_of(row, profile) == runner), default=0.0)


def fit_contention(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, runner: str
) -> BoardProfile:
    """What each further core costs, and what one thread at a time does, where rows of several cores decide it.

    The fastest networks may all be bound by the host: how many are is what explains all rows best, and none of them unless
    that is much better. Rows that the host bounds tell nothing of the cores.
    """
    used = [row for row in rows if _shares(row, runner, profile)]
    if len({row.network for row in used}) < _NETWORKS:
        return profile
    alone = {row.network: networks[row.network].dpu_s(profile) for row in used}
    by_speed = sorted(used, key=lambda row: alone[row.network] / cores_of(row, profile))

    def off(trial: BoardProfile) -> float:
        errors = [row.fps / predict(row, networks[row.network], alone[row.network], trial) - 1 for row in used]
        return float(np.average(np.abs(errors), weights=family_weights(used)))

    free = [row for row in used if not _bound_by_host(row, networks[row.network].pixels, profile)]
    best = _with_contention(free, networks, alone, profile, runner)
    least = off(best)
    limit = _CONVINCING * least
    for bound in range(_NETWORKS, len(by_speed) + 1) if least > _USUAL else ():
        if len({row.network for row in by_speed[:bound]}) < _NETWORKS:
            continue
        serial = float(np.median([1.0 / row.fps for row in by_speed[:bound]]))
        trial = _with_contention(by_speed[bound:], networks, alone, with_runner(profile, runner, serial_seconds=serial), runner)
        if off(trial) < limit:
            best, limit = trial, off(trial)
    return best


def _with_contention(
    used: Sequence[MeasurementRow],
    networks: Mapping[str, Network],
    dpu_s: Mapping[str, float],
    profile: BoardProfile,
    runner: str,
) -> BoardProfile:
    """The three parts of contention from rows that nothing else bounds, or with few rows the median of the fixed one."""
    if len({row.network for row in used}) < _NETWORKS:
        return profile
    alone = np.array([dpu_s[row.network] for row in used])
    cores = np.array([_busy_cores(row, runner, profile) for row in used])
    slowdown = (cores / np.array([row.fps for row in used]) - profile.job_seconds) / alone
    each = (slowdown - 1.0) / (cores - 1)
    moved = np.array([traffic(networks[row.network].program, t) for row, t in zip(used, alone, strict=True)])
    if len({row.network for row in used}) >= ENOUGH_FOR_TRAFFIC:
        weights = family_weights(used) / slowdown
        terms = np.concatenate([np.ones((len(used), 1)), moved], axis=1)
        parts = _non_negative(terms * weights[:, None], each * weights)
        found = Contention(**dict(zip(Contention.model_fields, parts, strict=True)))
    else:
        known = profile.runners[runner].contention
        rest = each - moved @ np.array([known.per_loaded_gb_s, known.per_saved_gb_s])
        found = known.model_copy(update={"fixed": max(0.0, float(np.median(rest)))})
    return with_runner(profile, runner, contention=found)


def is_latency(row: MeasurementRow, runner: str, profile: BoardProfile) -> bool:
    """Whether a row is of one image in flight, with this runner."""
    return row.what == "latency" and runner_of(row, profile) == runner


def _shares(row: MeasurementRow, runner: str, profile: BoardProfile) -> bool:
    """Whether a row is of several cores that are busy, with this runner."""
    named = row.what == "throughput" and runner_of(row, profile) == runner
    return named and _busy_cores(row, runner, profile) > 1


def _busy_cores(row: MeasurementRow, runner: str, profile: BoardProfile) -> int:
    """Cores that a row of throughput keeps busy, with this runner: each needs a thread."""
    return min(cores_of(row, profile), profile.runners[runner].threads)


def count_shared(rows: Iterable[MeasurementRow], runner: str, profile: BoardProfile) -> int:
    """How many parts of a runner's contention the rows decide."""
    shared = [row for row in rows if _shares(row, runner, profile)]
    several = len({row.network for row in shared})
    return len(Contention.model_fields) if several >= ENOUGH_FOR_TRAFFIC else int(several >= _NETWORKS)


def _bound_by_host(row: MeasurementRow, pixels: int, profile: BoardProfile) -> bool:
    """Whether a throughput is about what the row's runner allows at most."""
    runner = runner_of(row, profile)
    cores = _busy_cores(row, runner, profile)
    busy = BusyCores(cores, cores / row.fps, 0.0, profile.host_processors)
    return busy.host_fps(profile.runner(runner), pixels) < _CLOSE * row.fps


def family_weights(rows: Iterable[MeasurementRow]) -> npt.NDArray[np.float64]:
    """(rows,): a family counts by the root of its size."""
    families = [row.family or row.network for row in rows]
    return np.array([families.count(family) ** -0.5 for family in families])


def _non_negative(terms: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> list[float]:
    """The least-squares solution without negative parts."""
    from scipy.optimize import nnls

    size = np.maximum(np.abs(terms).max(axis=0), 1e-300)
    return [float(part) for part in nnls(terms / size, values)[0] / size]
