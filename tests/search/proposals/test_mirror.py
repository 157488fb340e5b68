"""What samplers see: every trial while there are few, the best and the latest while there are many."""

from __future__ import annotations

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.search.proposals import _mirror
from edgesearch.search.proposals._mirror import Mirror
from edgesearch.search.proposals._samplers import make_sampler
from edgesearch.search.study import SearchSettings

WIDTH = {"width": FloatDistribution(0.0, 1.0)}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few trials are many."""
    monkeypatch.setattr(_mirror, "_MOST", 40)
    monkeypatch.setattr(_mirror, "_BEST", 8)
    monkeypatch.setattr(_mirror, "_LATEST", 16)


def trial(number: int, values: tuple[float, float] | None, *, broken: float = -1.0, **more: int) -> FrozenTrial:
    told = create_trial(
        state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
        values=values,
        params={"width": (number % 97) / 97},
        distributions=WIDTH,
        system_attrs={"constraints": [broken], **more},
    )
    told.number = number
    return told


def seen(mirror: Mirror) -> dict[tuple[float, ...] | None, TrialState]:
    """What a sampler finds: values -> state."""
    found = {}
    with mirror.asked(RandomSampler(seed=0)) as asked:
        for one in asked.study.get_trials(deepcopy=False)[:-1]:
            found[tuple(one.values) if one.values else None] = one.state
    return found


def test_the_best_and_the_latest_of_many_trials_are_kept_and_what_runs() -> None:
    mirror = Mirror(["maximize", "maximize"], needs_parameters=False)
    mirror.observe(trial(0, None))
    for number in range(1, 41):  # the first are the best, but for two that break a constraint
        mirror.observe(trial(number, (100.0 - number, 1.0), broken=1.0 if number <= 2 else -1.0))
    kept = [values[0] for values in seen(mirror) if values]
    assert sorted(100 - k for k in kept) == [*range(3, 11), *range(25, 41)]
    assert seen(mirror)[None] == TrialState.RUNNING
    mirror.observe(trial(0, (500.0, 5.0)))
    assert (500.0, 5.0) in seen(mirror)


def test_what_was_foretold_of_a_trial_is_replaced_and_told_late_of_one_that_was_dropped_does_no_harm() -> None:
    mirror = Mirror(["maximize", "maximize"], needs_parameters=False)
    for number in range(40):
        mirror.observe(trial(number, (float(number < 8), 1.0 + number)))
    mirror.observe(trial(39, (0.5, 7.0)))
    assert (0.5, 7.0) in seen(mirror)
    assert (0.0, 40.0) not in seen(mirror)
    dropped = 12
    assert (0.0, 1.0 + dropped) not in seen(mirror)
    mirror.observe(trial(dropped, (0.25, 3.0)))
    assert len(seen(mirror)) <= 40


def test_a_trial_that_fails_is_gone_whether_it_ran_or_waited_with_foretold_values() -> None:
    mirror, resumed = (Mirror(["maximize", "maximize"], needs_parameters=False) for _ in range(2))
    for number in range(4):
        mirror.observe(trial(number, None))
        if number != 2:
            mirror.observe(trial(number, (1.0, float(number))))  # foretold
    for number in (1, 2):
        failed = trial(number, None)
        failed.state = TrialState.FAIL
        mirror.observe(failed)
    for number in range(4):
        resumed.observe(trial(number, (1.0, float(number))) if number in (0, 3) else failed)
    assert seen(mirror) == seen(resumed) == {(1.0, 0.0): TrialState.COMPLETE, (1.0, 3.0): TrialState.COMPLETE}
    for number in range(4, 42):  # it is counted when to keep only some
        mirror.observe(trial(number, (float(number), 1.0)))
        assert (len(seen(mirror)) == number - 1) == (number < 41)


def test_asks_leave_no_trace() -> None:
    mirror = Mirror(["maximize", "maximize"], needs_parameters=False)
    mirror.observe(trial(0, (1.0, 1.0)))
    for seed in range(3):
        with mirror.asked(RandomSampler(seed=seed)) as asked:
            asked.suggest_float("width", 0.0, 1.0)
    assert len(seen(mirror)) == 1


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "tpe"])
def test_samplers_go_on_over_many_trials(name: str) -> None:
    options = {} if name == "tpe" else {"mutation_prob": 0.1}
    search = SearchSettings(sampler=name, population=6, startup_trials=10, sampler_options=options)
    whole, told = Mirror(["maximize", "maximize"], needs_parameters=False), []
    for number in range(130):
        with whole.asked(make_sampler(search, number)) as asked:
            width = asked.suggest_float("width", 0.0, 1.0)
            frozen = whole.frozen(asked)
            told.append(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=[1.0 - abs(width - 0.75), width],
                    params=dict(frozen.params),
                    distributions=WIDTH,
                    system_attrs=dict(frozen.system_attrs),
                )
            )
            told[-1].number = number
        whole.observe(told[-1])
    late = [one.params["width"] for one in told[100:]]
    assert sum(width >= 0.7 for width in late) > 0.6 * len(late)  # all of the front lies there


def test_a_study_that_resumes_keeps_the_same_trials() -> None:
    whole = Mirror(["maximize", "maximize"], needs_parameters=False)
    trials = [trial(number, (float(number * 37 % 101), float(number * 53 % 89))) for number in range(130)]
    for number, one in enumerate(trials):
        whole.observe(trial(number, None))
        with whole.asked(TPESampler(seed=number)) as asked:
            asked.suggest_float("width", 0.0, 1.0)
        whole.observe(one)
    resumed = Mirror(["maximize", "maximize"], needs_parameters=False)
    for one in trials:
        resumed.observe(one)
    assert seen(whole) == seen(resumed)
    with whole.asked(TPESampler(seed=500)) as first, resumed.asked(TPESampler(seed=500)) as second:
        assert first.suggest_float("width", 0.0, 1.0) == second.suggest_float("width", 0.0, 1.0)
