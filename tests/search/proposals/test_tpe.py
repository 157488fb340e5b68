"""What is kept of a study changes no draw."""

from __future__ import annotations

import random
from typing import Any

import pytest
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.search.proposals._mirror import Mirror
from edgesearch.search.proposals._tpe import SharedTPE
from edgesearch.search.proposals._walk import Dice
from edgesearch.search.study import quiet_optuna


def suggest(trial: Any) -> dict[str, Any]:
    """Parameters of all sorts, one of which only some trials have."""
    drawn = {
        "name": trial.suggest_categorical("name", ["one", "two", "three"]),
        "width": trial.suggest_float("width", 0.25, 1.0, step=0.25),
        "alpha": trial.suggest_float("alpha", 0.1, 10.0, log=True),
    }
    if drawn["name"] != "two":
        drawn["ratio"] = trial.suggest_float("ratio", 0.0, 1.0)
    return drawn


def trial(number: int, values: tuple[float, ...] | None, excess: float = -1.0) -> FrozenTrial:
    dice = Dice(number)
    suggest(dice)
    told = create_trial(
        state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
        values=values,
        params=dice.params,
        distributions=dice.distributions,
        system_attrs={} if values is None else {"constraints:min_accuracy": excess},
    )
    told.number = number
    return told


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"multivariate": True, "group": True}, {"constant_liar": False}])
def test_draws_are_those_of_optuna_whatever_was_asked_and_told_before(objectives: int, options: dict[str, Any]) -> None:
    mirror, draw = Mirror(objectives * ["maximize"], needs_parameters=False), random.Random(objectives)
    for number in range(16):
        mirror.observe(trial(number, None))
        if number >= 4:  # four are under way
            values = tuple(draw.random() for _ in range(objectives))
            mirror.observe(trial(number - 4, values, excess=draw.uniform(-1.0, 0.3)))
        if number % 3 == 0:
            asked = []
            for kind in (SharedTPE, TPESampler, SharedTPE):
                with quiet_optuna():  # what it says of experimental features
                    sampler = kind(seed=number, n_startup_trials=4, **options)
                with mirror.asked(sampler) as one:
                    asked.append(suggest(one))
            assert asked[0] == asked[1] == asked[2], f"trial {number}"
