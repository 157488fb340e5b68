"""Whether measurements can be true, and whether a profile explains them.

A DPU cannot be faster than its convolution engine: a network's convolutions take a number of cycles that nothing shortens (the
compiled files of AMD's tools have the same number within 0.3 %). Nor can it be faster than its memory ports: every weight is
loaded once for each image. How slow a board may be has no such bound; what a fitted profile leaves unexplained, and constants
that ended far from where they started, are what tells a wrong row from a slow board.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgesearch.board_eval.targets import BoardProfile
from edgesearch.errors import MeasurementError

if TYPE_CHECKING:
    from edgesearch.board_eval.timing._calibrate import RowError
    from edgesearch.board_eval.timing._measurements import MeasurementRow
    from edgesearch.board_eval.timing._predicted import Network

#: Clocks and frames are measured to a few percent.
_TOLERANCE = 1.05
#: Bytes that one core's two memory ports of 128 bits move in a cycle (DPUCZDX8G product guide, PG338).
_PORT_BYTES = 32
#: The relative error of a row above which a fitted profile does not explain it. The shipped profiles are within 8 % everywhere.
UNEXPLAINED = 0.25
#: Networks that a fit needs: with one, every constant can be what it likes.
FEWEST_NETWORKS = 2
_NAMED = 5
#: Compiled files of one network have the same convolution cycles within 0.3 %.
_SAME_CYCLES = 0.01
#: A row is an outlier when its error is as many times that of half of the rows, and more than boards and models usually differ.
_OUTLYING, _USUAL = 4.0, 0.05
#: Host times of published measurements lie within a factor of 4.5 of each other (0.25 to 1.12 ms an image).
_FAR = 5.0


def convolution_seconds(network: Network, profile: BoardProfile) -> float:
    """The time that the convolution engine is busy with one image."""
    return network.conv_cycles * 1e-6 / profile.clock_mhz


def weight_load_seconds(network: Network, profile: BoardProfile) -> float:
    """The time that one image's weights and biases take through a core's memory ports at their full width."""
    return network.weight_bytes / _PORT_BYTES * 1e-6 / profile.clock_mhz


def alike(networks: Mapping[str, Network]) -> dict[str, str]:
    """Name -> the first name of a network of the same image, weights and convolutions.

    It is the same network under another name, a compiled file of it, or one that tells a fit no more than it does.
    """
    sizes: dict[str, tuple[int, int, int]] = {}
    found: dict[str, str] = {}
    for name, network in networks.items():
        pixels, weights, cycles = size = (network.pixels, network.weight_bytes, network.conv_cycles)
        found[name] = next(
            (
                first
                for first, known in sizes.items()
                if known[:2] == (pixels, weights) and abs(known[2] - cycles) <= _SAME_CYCLES * cycles
            ),
            name,
        )
        sizes.setdefault(found[name], size)
    return found


def check_rows(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> None:
    """Raise MeasurementError for rows that no board of this profile can give, and for too few to fit anything to."""
    names = {row.network for row in rows}
    if len(set(alike(networks).values())) < FEWEST_NETWORKS:
        which = (
            f" ({', '.join(sorted(names)[:_NAMED])} have the same image, weights and convolutions)" if len(names) > 1 else ""
        )
        raise MeasurementError(
            f"one network{which} cannot tell the constants of a board apart; measure at least {FEWEST_NETWORKS} "
            "of different size (the more unlike, the better)"
        )
    least = {
        name: max(
            (convolution_seconds(networks[name], profile), "its convolutions alone allow"),
            (weight_load_seconds(networks[name], profile), "loading its weights alone allows"),
        )
        for name in names
    }
    for row in rows:
        cores = profile.cores if row.cores is None else row.cores
        if cores > profile.cores:
            raise MeasurementError(
                f"{row}: cores = {cores}, but {profile.name} has {profile.cores}; "
                "correct it, or start from a profile of that board (--board)"
            )
        seconds, why = least[row.network]
        highest = (cores if row.what == "throughput" else 1) / seconds if seconds else float("inf")
        if row.fps > highest * _TOLERANCE:
            raise MeasurementError(
                f"{row}: {row.fps:,.0f} FPS, but {why} {highest:,.0f} on "
                f"{profile.name} ({profile.dpu.name} at {profile.clock_mhz:g} MHz); check the row, the network and the board"
            )


def is_explained(errors: Iterable[RowError]) -> bool:
    """Whether a fitted profile is near all rows."""
    return all(abs(error.relative) <= UNEXPLAINED for error in errors)


def check_explained(
    errors: Iterable[RowError], profile: BoardProfile, *, find_wrong: Callable[[], MeasurementRow | None]
) -> None:
    """Raise MeasurementError naming the rows that what was fitted to them, starting from `profile`, is far from.

    One wrong row can bend a fit so that it is near that row and far from sound ones. `find_wrong` looks for a row without which
    all others are explained.
    """
    rows = list(errors)
    far = sorted((e for e in rows if abs(e.relative) > UNEXPLAINED), key=lambda e: -abs(e.relative))
    if far:
        wrong = find_wrong()
        first = (
            "" if wrong is None else f"without {wrong}, {wrong.fps:,.0f} FPS, all others are explained, so look at it first; "
        )
        named = "; ".join(
            f"{e.row}: measured {e.row.fps:,.4g} FPS, fitted {e.predicted_fps:,.4g} ({e.relative:+.0%})" for e in far[:_NAMED]
        )
        more = f" and {len(far) - _NAMED} more" if len(far) > _NAMED else ""
        raise MeasurementError(
            f"{len(far)} of {len(rows)} measurements cannot be explained by any constants of {profile.name} ({named}{more}); "
            f"{first}check these rows, or write the profile all the same with --keep-unexplained"
        )


def outliers(errors: Iterable[RowError]) -> tuple[RowError, ...]:
    """The rows that a fitted profile explains, but far worse than most, the farthest first."""
    rows = list(errors)
    if not rows:
        return ()
    limit = max(_USUAL, _OUTLYING * statistics.median(abs(e.relative) for e in rows))
    return tuple(sorted((e for e in rows if abs(e.relative) > limit), key=lambda e: -abs(e.relative)))


def moved(fitted: Mapping[str, float], start: Mapping[str, float]) -> dict[str, float]:
    """The constants that a fit made more than `_FAR` times greater or smaller, and how many times greater they are."""
    factors = {name: fitted[name] / value for name, value in start.items() if value > 0}
    return {name: factor for name, factor in factors.items() if not 1 / _FAR <= factor <= _FAR}
