"""The constants of a board that explain measurements best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.targets import BoardProfile, Contention, TimingConstants
from edgesearch.board_eval.timing._fit_host import (
    count_shared,
    decides_host,
    decides_slope,
    family_weights,
    fastest_of,
    fit_contention,
    fit_host,
    is_latency,
    with_host_time,
)
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._predicted import Network, cores_of, predict

#: Weight of staying at the constants one starts from, per relative change of one constant: what the measurements do not
#: determine keeps its value. 0.02 lets a constant double for an error of 2 % in one measurement.
PRIOR = 0.02
#: Relative error above which a measurement counts less (soft L1): one wrong row must not bend the fit.
OUTLIER = 0.03
_FITTED = tuple(TimingConstants.model_fields)


def constants_of(profile: BoardProfile) -> dict[str, float]:
    """Every number that a fit may change, by the name that it has in a profile's file."""
    named = {f"constants.{name}": float(getattr(profile.constants, name)) for name in _FITTED}
    named["job_seconds"] = profile.job_seconds
    for name, host in profile.runners.items():
        for field in ("seconds", "seconds_per_pixel", "serial_seconds"):
            named[f"runners.{name}.{field}"] = float(getattr(host, field))
        for part in Contention.model_fields:
            named[f"runners.{name}.contention.{part}"] = float(getattr(host.contention, part))
    return named


def constants_spoken_of(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> int:
    """How many constants the rows have to do with; a host's serial part, which follows its time, is not counted."""
    main = _main_runner(rows, profile)
    alone = any(row.what == "throughput" and cores_of(row, profile) == 1 for row in rows)
    count = (len(_FITTED) + 1) * (alone or main is not None)
    for runner in profile.runners:
        latencies = [row for row in rows if is_latency(row, runner, profile)]
        sloped = runner != main and decides_slope(networks[row.network].pixels for row in latencies)
        count += decides_host(latencies) * (1 + sloped)
        count += count_shared(rows, runner, profile)
    return count


def fit(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> BoardProfile:
    """The profile with what the rows decide fitted to them: first the DPU and one runner, then each runner by itself."""
    main = _main_runner(rows, profile)
    fitted = _fit_dpu(rows, networks, profile, main)
    for runner in profile.runners:
        if runner != main:
            fitted = fit_host(rows, networks, fitted, runner)
        fitted = fit_contention(rows, networks, fitted, runner)
    return fitted


def _main_runner(rows: Sequence[MeasurementRow], profile: BoardProfile) -> str | None:
    """The runner whose latencies the DPU's constants are fitted to: the one without work that grows with the image, if any."""
    named = [name for name in profile.runners if decides_host(row for row in rows if is_latency(row, name, profile))]
    plain = [name for name in named if profile.runners[name].seconds_per_pixel == 0]
    chosen = profile.default_runner if profile.default_runner in named else next(iter(plain), None)
    if chosen is None and not any(row.what == "throughput" and cores_of(row, profile) == 1 for row in rows):
        return next(iter(named), None)
    return chosen


def _fit_dpu(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, main: str | None
) -> BoardProfile:
    used = [
        row
        for row in rows
        if (row.what == "throughput" and cores_of(row, profile) == 1) or (main is not None and is_latency(row, main, profile))
    ]
    if not used:
        return profile
    weights = family_weights(used)
    host = profile.runner(main)
    start = np.array([getattr(profile.constants, name) for name in _FITTED] + [profile.job_seconds, host.seconds])
    pixels = int(np.median([networks[row.network].pixels for row in used]))
    tells_job = any(row.what == "throughput" for row in used)  # latencies only know its sum with the host's time
    fastest = 0.0 if main is None else fastest_of(rows, main, profile)
    scale = np.maximum(start, [0.1] * len(_FITTED) + [1e-5, 1e-5])

    def at(u: npt.NDArray[np.float64]) -> BoardProfile:
        values = (u * scale).tolist()
        constants = TimingConstants(**dict(zip(_FITTED, values, strict=False)))
        job = values[-2] if tells_job or main is None else profile.job_seconds
        trial = profile.model_copy(update={"constants": constants, "job_seconds": job})
        return trial if main is None else with_host_time(trial, main, values[-1], host.seconds_per_pixel, pixels, fastest)

    def residuals(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        trial = at(u)
        times = {network: networks[network].dpu_s(trial) for network in {row.network for row in used}}
        errors = [math.log(row.fps / predict(row, networks[row.network], times[row.network], trial)) for row in used]
        return np.concatenate([weights * np.array(errors), PRIOR * (u - start / scale)])

    return at(_least_squares(residuals, start / scale))


def _least_squares(
    residuals: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], start: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    from scipy.optimize import least_squares

    lower = np.full(len(start), 1e-6)
    found = least_squares(
        residuals, np.maximum(start, 2e-6), bounds=(lower, np.full(len(start), 20.0)), diff_step=1e-3, loss="soft_l1",
        f_scale=OUTLIER, max_nfev=15,
    )  # fmt: skip
    return np.asarray(found.x, dtype=np.float64)
