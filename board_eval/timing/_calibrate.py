"""Fitting the timing constants of a board to measured frames per second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile
from edgesearch.board_eval.timing._certainty import MOST_ERROR
from edgesearch.board_eval.timing._fit import constants_of, constants_spoken_of, fit
from edgesearch.board_eval.timing._measurements import MeasurementRow, What
from edgesearch.board_eval.timing._plausibility import (
    FEWEST_NETWORKS,
    alike,
    check_explained,
    check_rows,
    is_explained,
    moved,
    outliers,
)
from edgesearch.board_eval.timing._predicted import (
    Foretold,
    MeasuredCode,
    Network,
    predict,
    runner_of,
    with_cpp_runner,
    with_runner,
)
from edgesearch.errors import GraphError, MeasurementError

#: What an interval is meant to hold of the measurements.
_NOMINAL = 0.9
#: Of more rows none is left out in turn to find a wrong one: every time takes a fit.
_TRIED_ROWS = 40


@dataclass(frozen=True)
class RowError:
    """How far the calibrated model is from one row: predicted time / measured time - 1."""

    row: MeasurementRow
    predicted_fps: float

    @property
    def relative(self) -> float:
        """Relative error of the time; positive: predicted too slow."""
        return self.row.fps / self.predicted_fps - 1.0


@dataclass(frozen=True)
class Calibration:
    """A profile fitted to measurements, and what it makes of each of them."""

    profile: BoardProfile
    errors: tuple[RowError, ...]
    #: The same rows, each predicted by a fit to the other networks: what to expect of a network that was not measured.
    held_out: tuple[RowError, ...] = ()
    #: How many constants the rows speak of; where they are fewer than these, the rest of the answer is the profile's own.
    constants: int = 0
    #: Constants that ended far from where they started, and how many times greater they are.
    moved: Mapping[str, float] = field(default_factory=dict)
    #: What else is worth knowing of the measurements, a sentence each.
    notes: tuple[str, ...] = ()

    @property
    def outliers(self) -> tuple[RowError, ...]:
        """Rows that lie much farther from the fitted profile than most: worth measuring again. The farthest first."""
        return outliers(self.errors)

    @property
    def mean_absolute_held_out(self) -> float | None:
        """Mean absolute relative error over the held-out predictions; None when there were none."""
        return float(np.mean([abs(error.relative) for error in self.held_out])) if self.held_out else None

    @property
    def mean_absolute(self) -> float:
        """Mean absolute relative error over all rows."""
        return float(np.mean([abs(error.relative) for error in self.errors]))


def calibrate(
    rows: Sequence[MeasurementRow],
    graphs: Mapping[str, Graph | MeasuredCode],
    profile: BoardProfile,
    *,
    name: str | None = None,
    hold_out: bool = False,
    keep_unexplained: bool = False,
) -> Calibration:
    """Fit the constants of `profile` to measurements of networks, or of code that was measured itself.

    The DPU's constants, the time between jobs and the time of one runner (the default one, or one without work per pixel) are
    fitted together, to throughput rows of one core and latency rows of that runner; then the times of the other runners to
    theirs, and the contention of cores to the other throughput rows. What no row is about stays as it was. A family counts by
    the root of its size.

    Raises MeasurementError for a network without a graph or that the DPU cannot hold, for a runner that the profile does not
    have, for rows that cannot be true of this board, for too few of them, and, unless `keep_unexplained`, when the fitted
    profile does not explain them.
    `hold_out` fits once more without each network; the intervals of the profile go by what that is off.
    """
    if name is not None and not name.strip():
        raise MeasurementError("the name of the fitted profile is empty; give one, or leave it out")
    unknown = [row.network for row in rows if row.network not in graphs]
    if unknown:
        raise MeasurementError(f"measurement of {unknown[0]!r}: no such network was given")
    if not rows:
        raise MeasurementError("no measurements to fit; give at least one row")
    profile = with_cpp_runner(rows, profile)
    for row in rows:
        if runner_of(row, profile) not in profile.runners:
            known = ", ".join(sorted(profile.runners))
            raise MeasurementError(f"{row}: runner is {row.runner!r}; {profile.name} has {known}")
    first = {row.network: row for row in reversed(rows)}
    networks = {network: _network(row, graphs[network], profile) for network, row in first.items()}
    check_rows(rows, networks, profile)
    same = alike(networks)
    fitted = fit(rows, networks, profile)
    origin = f"fitted to {len(rows)} measurements of {len(set(same.values()))} networks, starting from {profile.name}"
    fitted = fitted.model_copy(update={"name": name or profile.name, "origin": origin})
    errors = _errors(rows, networks, fitted)
    if not keep_unexplained:
        check_explained(errors, profile, find_wrong=lambda: _wrong_row(rows, networks, profile))
    held_out: list[RowError] = []
    for network in dict.fromkeys(same[row.network] for row in rows) if hold_out else ():
        others = [row for row in rows if same[row.network] != network]
        held_out += _errors([row for row in rows if same[row.network] == network], networks, fit(others, networks, profile))
    fitted = with_known_errors(fitted, held_out)
    far = moved(constants_of(fitted), constants_of(profile))
    return Calibration(fitted, errors, tuple(held_out), constants_spoken_of(rows, networks, profile), far)


def _wrong_row(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> MeasurementRow | None:
    """The row without which a fit explains all others, best where there are several; None: there is none, or too many rows."""
    best: tuple[float, MeasurementRow] | None = None
    same = alike(networks)
    for row in rows if len(rows) <= _TRIED_ROWS else ():
        rest = [other for other in rows if other is not row]
        if len({same[other.network] for other in rest}) < FEWEST_NETWORKS:
            continue
        errors = _errors(rest, networks, fit(rest, networks, profile))
        off = float(np.mean([abs(error.relative) for error in errors]))
        if is_explained(errors) and (best is None or off < best[0]):
            best = off, row
    return None if best is None else best[1]


def with_known_errors(profile: BoardProfile, held_out: Sequence[RowError]) -> BoardProfile:
    """The profile with intervals that hold what was found of networks that its fit had not seen, for each of their runners.

    Enough errors replace the widths that it had by the one that holds 90 % of them; few can only make them wider.
    """
    for runner, host in profile.runners.items():
        changes: dict[str, Any] = {"errors_by_kind": dict(host.errors_by_kind)}
        for what in get_args(What):
            errors = sorted(abs(e.relative) for e in held_out if e.row.what == what and runner_of(e.row, profile) == runner)
            if not errors:
                continue
            rank = math.ceil(_NOMINAL * (len(errors) + 1))
            enough = rank <= len(errors)
            found = min(errors[min(rank, len(errors)) - 1], MOST_ERROR)

            def wide(known: float, enough: bool = enough, found: float = found) -> float:
                return found if enough else max(known, found)

            changes[f"{what}_error"] = wide(getattr(host, f"{what}_error"))
            changes["errors_by_kind"] = {
                kind: widths.model_copy(update={what: wide(getattr(widths, what))})
                for kind, widths in changes["errors_by_kind"].items()
            }
        profile = with_runner(profile, runner, **changes)
    return profile


def _network(row: MeasurementRow, given: Graph | MeasuredCode, profile: BoardProfile) -> Network:
    if isinstance(given, MeasuredCode):
        return given
    try:
        return Foretold.of(given, profile)
    except GraphError as error:
        place = f"line {row.line}, " if row.line else ""
        raise MeasurementError(f"{place}measurement of {row.network!r}: {error}") from error


def _errors(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> tuple[RowError, ...]:
    times = {network: networks[network].dpu_s(profile) for network in {row.network for row in rows}}
    return tuple(RowError(row, predict(row, networks[row.network], times[row.network], profile)) for row in rows)
