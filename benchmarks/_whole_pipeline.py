"""A search as one would write it with Optuna alone: every trial goes through the whole pipeline and shares nothing.

What could be called unfair to it is left out: the teacher and its logits are made once for all trials, a candidate that is
drawn again costs nothing and is told at once, and a proposal takes no time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from edgesearch.search.study import quiet_optuna
from edgesearch.spaces import Candidate
from edgesearch.testing import Table, Volume

#: Made once, by whoever searches.
_ONCE = ("teacher", "logits")
#: Proposals for each candidate that the table has, at most: a sampler may come back to what it has seen for ever.
_ASKS = 20


@dataclass(frozen=True)
class Reached:
    """Where a search stood once it had the share of the hypervolume that was asked for, or gave up."""

    seconds: float
    trials: int
    share: float


def search_whole(table: Table, volume: Volume, sampler: BaseSampler, *, until: float) -> Reached:
    """Search until the front has this share of the hypervolume; `seconds` are infinite where it never has."""
    space, study_file = table.study.space, table.study
    assert space is not None  # a table's study has one
    seconds, front, tried, made = 0.0, [], {}, set()
    with quiet_optuna():
        study = optuna.create_study(directions=study_file.directions, sampler=sampler)
        for _ in range(_ASKS * len(table.candidates)):
            trial = study.ask()
            candidate = space.suggest(trial)
            if candidate.key not in tried:
                tried[candidate.key] = table.figures(candidate)
                seconds += _seconds(table, candidate, made)
            figures = tried[candidate.key]
            if figures is None:
                study.tell(trial, state=TrialState.FAIL)
                continue
            for name, limit in study_file.constraints.model_dump(exclude_none=True).items():
                side, _, metric = name.partition("_")
                trial.set_constraint(name, limit - figures[metric] if side == "min" else figures[metric] - limit)
            study.tell(trial, [figures[name] for name in study_file.objectives])
            if volume.keeps(figures):
                front = volume.front([*front, volume.losses(figures)])
                share = volume.of(front) / volume.best
                if share >= until:
                    return Reached(seconds, len(tried), share)
    return Reached(math.inf, len(tried), volume.of(front) / volume.best)


def _seconds(table: Table, candidate: Candidate, made: set[str]) -> float:
    """What a trial costs: all its stages, up to one that fails; `made` has what there was to make once."""
    total = 0.0
    for entry in table.chain(candidate):
        once = entry.kind in _ONCE
        total += 0.0 if once and entry.name in made else entry.seconds
        if once:
            made.add(entry.name)
    return total
