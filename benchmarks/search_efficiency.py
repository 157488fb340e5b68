"""Worker-hours that searches take to 97 % of the hypervolume, replayed on a recorded study; and eight workers beside one.

Every search has the same space, constraints and table, whose candidates' hypervolume all together is the reference. The
reference point lies where the constraints meet; frames per second count by their logarithm. Seeds are paired: a speed-up is the
median over seeds of one search's seconds by another's.

    tpe, nsga2            Optuna's samplers, every trial running the whole pipeline (see `_whole_pipeline.py`)
    reuse_only            the engine: stages that candidates share are made once
    reuse_and_rungs       and trainings are stopped at rungs
    reuse_and_proposals   or proposals are chosen by what they gain for their seconds
    all                   all of it
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _report import finish
from _whole_pipeline import Reached, search_whole
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from edgesearch.search.study import SearchSettings, quiet_optuna
from edgesearch.testing import Table, Volume, digits_table, replay

SHARE = 0.97
#: Trials of the comparison of eight workers with one, at which it is made.
SIDE_BY_SIDE = (32, 64)
_WHOLE: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=SearchSettings().population),
}
_ENGINE: dict[str, dict[str, Any]] = {
    "reuse_only": {"rungs": False, "proposals": "plain"},
    "reuse_and_rungs": {"rungs": True, "proposals": "plain"},
    "reuse_and_proposals": {"rungs": False, "proposals": "cost_aware"},
    "all": {"rungs": True, "proposals": "cost_aware"},
}


def engine_search(table: Table, name: str, seed: int, **options: Any) -> Any:
    search = table.study.search.model_dump() | _known(_ENGINE[name])
    return replay(table.study.with_changes(search=search), table=table, seed=seed, **options)


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that this version has."""
    return {key: value for key, value in settings.items() if key in SearchSettings.model_fields}


def run(table: Table, volume: Volume, name: str, seed: int) -> Reached:
    """One search to the share that is asked for."""
    if name in _WHOLE:
        with quiet_optuna():  # what it says of experimental features
            sampler = _WHOLE[name](seed)
        return search_whole(table, volume, sampler, until=SHARE)
    history = engine_search(table, name, seed, until=SHARE)
    point = history.reached(SHARE)
    last = history.points[-1]
    return Reached(math.inf if point is None else point.worker_seconds, last.trials, last.share)


def side_by_side(table: Table, seeds: int) -> dict[str, Any]:
    """Eight workers: their busy share, and the hypervolume of as many trials as one worker's."""
    busy: list[float] = []
    ratios: dict[int, list[float]] = {trials: [] for trials in SIDE_BY_SIDE}
    for seed in range(seeds):
        one, eight = (engine_search(table, "all", seed, trials=max(SIDE_BY_SIDE), workers=workers) for workers in (1, 8))
        busy.append(eight.busy)
        for trials, found in ratios.items():
            shares = [0.0 if (point := history.after(trials)) is None else point.share for history in (eight, one)]
            found.append(shares[0] / shares[1])
    return {
        "busy_8": round(statistics.median(busy), 3),
        "hypervolume_ratio_8": round(min(statistics.median(found) for found in ratios.values()), 4),
        "hypervolume_ratio_8_at": {trials: quartiles(found) for trials, found in ratios.items()},
    }


def quartiles(values: Sequence[float], digits: int = 4) -> list[float | None]:
    """First quartile, median, third; infinities are ordered behind all numbers, and are None."""
    ordered = sorted(values)
    between = [_between(ordered, (len(ordered) - 1) * share) for share in (0.25, 0.5, 0.75)]
    return [None if math.isinf(value) else round(value, digits) for value in between]


def _between(ordered: Sequence[float], place: float) -> float:
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def speedup(others: Sequence[Reached], ours: Sequence[Reached]) -> list[float | None]:
    """Quartiles of how many times as long others take, seed by seed; a seed of which neither came to the end is left out."""
    pairs = [(other.seconds, own.seconds) for other, own in zip(others, ours, strict=True)]
    return quartiles([0.0 if math.isinf(own) else other / own for other, own in pairs if not math.isinf(min(other, own))])


def told(quartiles_: Sequence[float | None]) -> str:
    first, median, third = ("never" if value is None else f"{value:.1f}" for value in quartiles_)
    return f"{median:>8} ({first} to {third})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--table", type=Path, help="default: the one that comes with edgesearch")
    parser.add_argument("--searches", nargs="+", default=[*_WHOLE, *_ENGINE], choices=[*_WHOLE, *_ENGINE])
    parser.add_argument("--no-workers", action="store_true", help="leave out eight workers beside one")
    arguments = parser.parse_args()
    table = digits_table() if arguments.table is None else Table.load(arguments.table)
    volume = Volume(table, table.study)
    print(f"{table.study.name}: {len(table.candidates)} candidates, {len(table.entries)} stages", flush=True)
    found: dict[str, list[Reached]] = {}
    for name in arguments.searches:
        if name in _ENGINE and len(_known(_ENGINE[name])) < len(_ENGINE[name]):
            print(f"{name}: this version has not all of {_ENGINE[name]}", flush=True)
        found[name] = [run(table, volume, name, seed) for seed in range(arguments.seeds)]
        seconds, trials = ([getattr(reached, what) for reached in found[name]] for what in ("seconds", "trials"))
        print(f"{name:<20} {told(quartiles(seconds))} s, {told(quartiles(trials))} trials", flush=True)
    figures: dict[str, Any] = {"benchmark": "search_efficiency", "seeds": arguments.seeds, "candidates": len(table.candidates)}
    best = "all" if "all" in found else arguments.searches[-1]
    for name, others in found.items():
        figures[f"worker_hours_{name}"] = quartiles([reached.seconds / 3600 for reached in others], 6)
        figures[f"never_reached_{name}"] = sum(math.isinf(reached.seconds) for reached in others)
        if name != best:
            figures[f"speedup_vs_{name}_quartiles"] = ratios = speedup(others, found[best])
            figures[f"speedup_vs_{name}"] = ratios[1]
    if not arguments.no_workers:
        figures |= side_by_side(table, arguments.seeds)
    finish(figures)


if __name__ == "__main__":
    main()
