from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.plugins import source_fingerprint
from edgesearch.search.proposals import _proposals
from edgesearch.search.proposals._draws import Proposal
from edgesearch.search.proposals._proposals import MAX_ATTEMPTS, Proposer, derive_seed
from edgesearch.search.study._file import StudyFile, parse_study

SPACE = """
name = "s"
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0, 2.0]
input_size = [8, 16]
pruning = ["none", "one_step"]
[search]
sampler = "SAMPLER"
startup_trials = 4
population = 4
"""


def study(sampler: str = "tpe") -> StudyFile:
    return parse_study(SPACE.replace("SAMPLER", sampler).encode(), where="s", folder=Path())


def teach(proposer: Proposer, count: int) -> list[FrozenTrial]:
    """Run `count` trials, every third of them failed, and return them; accuracy and speed follow from the number."""
    trials = []
    for number in range(count):
        proposal = next(iter(proposer.proposals(number)))
        proposer.observe(told(number, proposal, TrialState.RUNNING))
        trials.append(told(number, proposal, TrialState.FAIL if number % 3 == 2 else TrialState.COMPLETE))
        proposer.observe(trials[-1])
    return trials


def told(number: int, proposal: Proposal, state: TrialState) -> FrozenTrial:
    trial = create_trial(
        state=state,
        values=[0.5 + 0.01 * (number * 7 % 11), 100.0 + number * 5 % 13] if state == TrialState.COMPLETE else None,
        params=proposal.params,
        distributions=proposal.distributions,
        system_attrs=proposal.system_attrs,
    )
    trial.number = number
    return trial


def test_what_is_foretold_is_replaced_by_what_comes_true() -> None:
    proposer = Proposer(study())
    proposal = next(iter(proposer.proposals(0)))
    drawn = {"params": proposal.params, "distributions": proposal.distributions}
    running = create_trial(state=TrialState.RUNNING, **drawn)
    proposer.observe(running)
    for values, attributes in (([0.5, 100.0], {"paused": {}}), ([0.6, 100.0], {"paused": {}}), ([0.7, 90.0], {"paused": {}})):
        proposer.observe(create_trial(state=TrialState.COMPLETE, values=values, user_attrs=attributes, **drawn))
        (mirrored,) = [t for t in proposer._mirror._study.get_trials() if t.state == TrialState.COMPLETE]
        assert mirrored.values == values
    again = Proposer(study())  # as after a break, when only the latest is told
    again.observe(create_trial(state=TrialState.COMPLETE, values=[0.6, 100.0], user_attrs={"paused": {}}, **drawn))
    again.observe(create_trial(state=TrialState.COMPLETE, values=[0.7, 90.0], user_attrs={"paused": {}}, **drawn))
    assert [t.values for t in again._mirror._study.get_trials()] == [[0.7, 90.0]]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp"])
def test_every_sampler_lives_with_failed_trials(sampler: str) -> None:
    proposer = Proposer(study(sampler))
    teach(proposer, 12)
    proposal = next(iter(proposer.proposals(12)))
    assert proposal.candidate == proposal.candidate.canonical()


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2", "nsga3"])
def test_a_resumed_study_proposes_what_the_uninterrupted_one_would(sampler: str) -> None:
    """The trials, as they ended, are all that a driver has which begins after a break."""
    whole, breaks = Proposer(study(sampler)), (9,) if sampler == "gp" else (9, 13, 18, 23)  # its asks take a second each
    trials = teach(whole, breaks[-1])
    for count in breaks:
        broken, resumed = Proposer(study(sampler)), Proposer(study(sampler))
        assert [t.params for t in teach(broken, count)] == [t.params for t in trials[:count]]
        list(zip(range(5), broken.proposals(count), strict=False))  # turned-down proposals leave no trace
        for trial in trials[:count]:
            resumed.observe(trial)
        for number in range(count, count + 3):
            a, b = next(iter(broken.proposals(number))), next(iter(resumed.proposals(number)))
            assert (a.candidate, a.params) == (b.candidate, b.params)


def test_attempts_differ_so_that_a_turned_down_candidate_is_not_drawn_for_ever() -> None:
    proposals = [p.candidate.key for _, p in zip(range(40), Proposer(study()).proposals(0), strict=False)]
    assert len(set(proposals)) > 10


def test_after_random_draws_every_candidate_of_the_space_is_proposed() -> None:
    proposals = list(Proposer(study("random")).proposals(0))
    walked = {p.candidate.key for p in proposals[MAX_ATTEMPTS:]}
    assert len(walked) == 2 * 3 * 2 * (1 + 9)  # students, widths, sizes; not pruned, or at one of nine ratios
    assert walked >= {p.candidate.key for p in proposals[:MAX_ATTEMPTS]}


def test_the_studys_own_candidates_come_first() -> None:
    text = (
        SPACE.replace("SAMPLER", "tpe") + '\n[[candidates]]\nstudent = { architecture = "mlp", width = 4.0, input_size = 8 }\n'
    )
    proposer = Proposer(parse_study(text.encode(), where="s", folder=Path()))
    assert next(iter(proposer.proposals(0))).candidate.student.width == 4.0


def test_seeds_differ_by_every_part() -> None:
    seeds = {derive_seed(*parts) for parts in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 10), (0, 1)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_proposals_leave_optunas_logging_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        next(iter(Proposer(study()).proposals(0)))
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr().err == ""


def test_what_is_drawn_carries_the_checksums_of_the_studys_own_code(tmp_path: Path) -> None:
    (tmp_path / "drawn_nets.py").write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Linear(1, num_classes)\n"
    )
    text = 'name = "s"\n[space]\nstudents = ["drawn_nets:net"]\nwidth = [0.25, 0.5]\ninput_size = [8, 16]\n'
    proposer = Proposer(parse_study(text.encode(), where="s", folder=tmp_path))
    drawn = [proposal.candidate.student for proposal in proposer.proposals(0)]
    assert {student.source_sha256 for student in drawn} == {source_fingerprint("drawn_nets:net", folder=tmp_path)} - {""}
    assert {student.width for student in drawn} == {1.0}  # the network takes no width


@pytest.mark.parametrize(("number", "of_the_sampler"), [(0, 8), (999, 8), (2000, 4), (100_000, 2)])
def test_random_draws_take_the_samplers_place_sooner_where_it_has_proposed_most(
    number: int, of_the_sampler: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposer, draws, draw = Proposer(study()), list[bool](), Proposer.draw

    def watched(self: Proposer, *arguments: Any, at_random: bool = False) -> Proposal:
        draws.append(at_random)
        return draw(self, *arguments, at_random=at_random)

    monkeypatch.setattr(Proposer, "draw", watched)
    list(itertools.islice(proposer.proposals(number), 12))
    assert draws == [False] * of_the_sampler + [True] * (12 - of_the_sampler)


def test_the_walk_goes_on_with_the_next_trial_where_one_took_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proposals, "MAX_ATTEMPTS", 3)
    proposer, taken = Proposer(study("random")), set[str]()
    for number in range(1000):
        new = (proposal for proposal in proposer.proposals(number) if proposal.key not in taken)
        found = next(new, None)
        if found is None:
            break
        taken.add(found.key)
        new.close()  # the search of this trial is over
    assert len(taken) == 2 * 3 * 2 * (1 + 9)
    assert "the space has no more candidates" in proposer.why_none_is_left()
