"""Samplers, by name or by the import path of any of Optuna's interface.

A sampler is made anew for every proposal, with a seed of its own, so that a study that goes on proposes what it would have
without a break; what a sampler learns from must be in the trials. That holds for all that are named here: parents of
generations, which Optuna keeps in the study, are chosen from the trials each time. It does not for samplers that keep something
else in the study (`check_sampler` says so), and those that keep it in their own object never leave their first step. Trials
that run are seen, too: TPE counts them as bad, so that workers do not search in the same place (its `constant_liar`; with
several objectives too), GP takes them into its model. NSGA-II, NSGA-III and random draws do not look at them: generations are
made of finished trials, and what keeps workers apart is that no candidate is proposed twice. TPE models parameters that depend
on others where they exist; NSGA-II, NSGA-III and GP only those that every trial has, and draw the others at random.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.plugins import Registry
from edgesearch.search.proposals._tpe import SharedTPE
from edgesearch.search.study import SearchSettings, StudyFile, quiet_optuna

#: Called with the study's [search] table and a seed.
Maker = Callable[[SearchSettings, int], BaseSampler]

samplers: Registry[Maker] = Registry("sampler")
samplers.add("tpe", lambda search, seed: SharedTPE(seed=seed, n_startup_trials=search.startup_trials, **search.sampler_options))
samplers.add(
    "nsga2", lambda search, seed: NSGAIISampler(seed=seed, population_size=search.population, **search.sampler_options)
)
samplers.add(
    "nsga3", lambda search, seed: NSGAIIISampler(seed=seed, population_size=search.population, **search.sampler_options)
)
samplers.add("gp", lambda search, seed: GPSampler(seed=seed, n_startup_trials=search.startup_trials, **search.sampler_options))
samplers.add("random", lambda search, seed: RandomSampler(seed=seed, **search.sampler_options))
#: These only search the parameters that all trials have, and would find none with a trial that has no parameters.
_NEED_PARAMETERS = (GPSampler, NSGAIISampler, NSGAIIISampler)
#: Settings of a study that some samplers read.
READ_BY = {"startup_trials": ("tpe", "gp"), "population": ("nsga2", "nsga3")}
#: Options of Optuna's samplers that settings of a study stand for.
_OF_THE_STUDY = {"seed": "`seed`", "n_startup_trials": "search.startup_trials", "population_size": "search.population"}
#: Trials that a sampler is tried with before the study starts.
_TRIALS = 6


def make_sampler(search: SearchSettings, seed: int, *, folder: Path | None = None) -> BaseSampler:
    """The sampler that the study asks for; an import path is looked for in `folder` first.

    Raises PluginError for an unknown name, StudyError for options that it does not take and for what is no sampler.
    """
    maker = _maker(search.sampler, folder)
    for option, setting in _OF_THE_STUDY.items():
        if option in search.sampler_options and (search.sampler in samplers or (option == "seed" and _takes_seed(maker))):
            raise StudyError(f"sampler_options.{option} is given, which the study sets itself; give {setting} instead")
    try:
        with quiet_optuna():
            sampler = maker(search, seed) if search.sampler in samplers else _made(maker, search, seed)
    except Exception as error:  # whatever the sampler's constructor raises
        raise StudyError(
            f"sampler {search.sampler!r} cannot be made with sampler_options = {search.sampler_options}: {error}"
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise StudyError(f"sampler {search.sampler!r} is a {type(sampler).__name__}; expected an optuna.samplers.BaseSampler")
    return sampler


@cache  # a sampler is made for every proposal, and finding one by its import path reads all the files behind it
def _maker(name: str, folder: Path | None) -> Any:
    return samplers.find(name, folder=folder)


def _made(kind: Callable[..., Any], search: SearchSettings, seed: int) -> BaseSampler:
    return cast("BaseSampler", kind(**({"seed": seed} if _takes_seed(kind) else {}) | search.sampler_options))


def _takes_seed(kind: Callable[..., Any]) -> bool:
    """Whether it is called with the study's seed; what is no function or class is told of elsewhere."""
    try:
        return "seed" in inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return False


def needs_parameters(sampler: BaseSampler) -> bool:
    """Whether trials without parameters (the study's own candidates) are kept from the sampler."""
    return isinstance(sampler, _NEED_PARAMETERS)


def check_sampler(settings: StudyFile, *, folder: Path | None = None) -> str:
    """Let the study's sampler propose a few candidates of the study's space, with made-up values.

    What a person should know of it, in one sentence; "" where there is nothing. Raises StudyError naming what it cannot do with
    this space: conditional parameters, several objectives, constraints.
    """
    space, search = settings.space, settings.search
    if space is None:
        return ""
    eager = search.model_copy(update={"startup_trials": 2, "population": 2})
    with quiet_optuna():
        study = optuna.create_study(directions=list(settings.directions))
        study.stop = lambda: None  # type: ignore[method-assign]  # what a sampler does that has come to its space's end
        names = list(settings.constraints.model_dump(exclude_none=True))
        for number in range(_TRIALS):
            study.sampler = RandomSampler(seed=number) if number < _TRIALS // 2 else make_sampler(eager, number, folder=folder)
            try:
                trial = study.ask()
                space.suggest(trial)
                for name in names:
                    trial.set_constraint(name, float(number % 2) - 0.5)
                study.tell(trial, [_made_up(direction, number) for direction in study.directions], state=TrialState.COMPLETE)
            except Exception as error:  # whatever the sampler raises
                if number < _TRIALS // 2:  # not the study's sampler's turn
                    raise
                if isinstance(error, ModuleNotFoundError):
                    raise StudyError(f"sampler {search.sampler!r} needs the package {error.name}; install it") from error
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise StudyError(
                    f"sampler {search.sampler!r} cannot search this study ({len(study.directions)} objectives, {len(names)} "
                    f"constraints, parameters that depend on others): {first}; choose another, for example tpe"
                ) from error
    kept = [name for name in study._storage.get_study_system_attrs(study._study_id) if not _is_of_parents(name)]
    if not kept:
        return ""
    return (
        f"sampler {search.sampler!r} keeps in the study, and not in the trials, what it goes on from: after a break it begins "
        "anew, and the study proposes what it would not have without one"
    )


def _is_of_parents(attribute: str) -> bool:
    """Whether a genetic sampler keeps in it whom it chose for parents, which the mirror lets it choose anew."""
    return ":parent:" in attribute


def _made_up(direction: StudyDirection, number: int) -> float:
    return float(number) if direction == StudyDirection.MAXIMIZE else 1.0 / (1 + number)
