"""Choosing between proposals, on a study whose figures and costs follow simple laws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.objectives import Conditions, Counts, Stage, plan
from edgesearch.search.foresight._stage_costs import StageCosts
from edgesearch.search.proposals._choice import Chooser
from edgesearch.search.proposals._draws import Proposal
from edgesearch.search.proposals._options import Variants
from edgesearch.search.proposals._proposals import Proposer
from edgesearch.search.proposals._walk import Recorded
from edgesearch.search.study import StudyFile
from edgesearch.search.study._file import parse_study
from edgesearch.spaces import Candidate, Student

TEXT = """
name = "s"
objectives = OBJECTIVES
[train]
epochs = 30
[space]
students = ["cnn_tiny", "cnn_small"]
width = [0.5, 1.0, 2.0, 4.0]
input_size = [8]
pruning = ["none", "one_step"]
ratio = RATIO
granularity = [8]
quantization = ["ptq", "qat"]
bits = [8, 5]
[constraints]
min_accuracy = 0.5
max_size_bytes = 4e6
[search]
startup_trials = 4
proposals = "cost_aware"
"""
COUNTS = Counts.of({"train": 2000, "validation": 200, "calibration": 100})
CONDITIONS = Conditions(data=dict.fromkeys(("meta", "train", "validation", "calibration"), "0"), granularity=8)


def study(objectives: str = '["accuracy", "fps"]', ratio: str = "{ low = 0.2, high = 0.8, step = 0.2 }") -> StudyFile:
    return parse_study(TEXT.replace("OBJECTIVES", objectives).replace("RATIO", ratio).encode(), where="s", folder=Path())


def figures(candidate: Candidate) -> dict[str, float]:
    """All that the whole pipeline would find."""
    width, small = candidate.student.width, candidate.student.architecture == "cnn_small"
    macs = 1e5 * width**2 * (6 if small else 1) * (1 - candidate.pruning.ratio)
    odds = 0.6 * math.log(macs / 1e5) + 0.3 * (candidate.quantization.method == "qat") - 2.0 * candidate.pruning.ratio**3
    return {
        "accuracy": 1 / (1 + math.exp(-odds)),
        "fps": 1e9 / (macs + 5e4),
        "latency_ms": 1e-6 * (macs + 5e4),
        "size_bytes": 2.0 * macs * candidate.quantization.bits / 8,
        "macs": macs,
    }


class Laws:
    """Knows candidates by the laws; keeps what was tried and made."""

    revision = 0

    def __init__(self, settings: StudyFile) -> None:
        self.settings, self.seen, self.made, self.looked_at = settings, set[str](), set[str](), 0

    def was_tried(self, key: str) -> bool:
        return key in self.seen

    def network(self, candidate: Candidate) -> str:
        return candidate.key

    def has_network(self, key: str) -> bool:
        return key in self.seen

    def expected(self, candidate: Candidate) -> Mapping[str, float] | None:
        self.looked_at += 1
        known = {name: value for name, value in figures(candidate).items() if name != "accuracy"}
        return None if self.settings.constraints.violations(known) else known

    def stages(self, candidate: Candidate) -> Sequence[Stage]:
        return _stages(self.settings.model_dump_json(), candidate.model_dump_json())

    def is_there(self, kind: str, key: str) -> bool:
        return key in self.made

    def macs(self, student: Student) -> float:
        return figures(Candidate(student=student))["macs"]


@cache
def _stages(settings: str, candidate: str) -> list[Stage]:
    pipeline = StudyFile.model_validate_json(settings).pipeline
    return list(plan(Candidate.model_validate_json(candidate), pipeline, CONDITIONS).walk())


class Search:
    """A proposer and a chooser that are told of the same trials."""

    def __init__(self, settings: StudyFile) -> None:
        self.settings, self.insight, self.trials = settings, Laws(settings), list[FrozenTrial]()
        self.proposer = Proposer(settings)
        self.costs = StageCosts(self.insight.macs, COUNTS)
        self.chooser = Chooser(settings, self.proposer, self.insight, self.costs)

    def tell(self, trial: FrozenTrial) -> None:
        candidate = Candidate.model_validate(trial.user_attrs["candidate"])
        self.insight.seen.add(candidate.key)
        self.insight.made |= {stage.key for stage in self.insight.stages(candidate)}
        self.trials.append(trial)
        self.proposer.observe(trial)
        self.costs.learn(self.insight.stages(candidate), trial.user_attrs.get("stage_seconds", {}))
        self.chooser.observe(trial)

    def first(self, count: int) -> Iterable[FrozenTrial]:
        """What the first trials told, which the sampler proposed."""
        while len(self.trials) < count:
            number = len(self.trials)
            proposal = next(p for p in self.proposer.proposals(number) if p.key not in self.insight.seen)
            self.tell(ended(self.settings, number, proposal))
        return self.trials


def ended(settings: StudyFile, number: int, proposal: Proposal) -> FrozenTrial:
    told = figures(proposal.candidate)
    trial = create_trial(
        state=TrialState.COMPLETE,
        values=[told[name] for name in settings.objectives],
        params=proposal.params,
        distributions=proposal.distributions,
        user_attrs={
            "candidate": proposal.candidate.model_dump(mode="json"),
            "deployable": proposal.candidate.deployable,
            "violations": settings.constraints.violations(told),
            "stage_seconds": {"student": 60.0, "quantized": 1.0},
            **told,
            **{f"estimated_{name}": value for name, value in told.items() if name != "accuracy"},
        },
    )
    trial.number = number
    return trial


def test_the_sampler_has_every_fifth_trial_and_all_while_little_is_known() -> None:
    search = Search(study())
    search.first(5)
    assert search.chooser.choose(7) is None
    search.first(20)
    assert search.chooser.choose(20) is None
    assert search.chooser.choose(21) is not None


def test_a_variant_of_a_trained_student_is_chosen_and_the_sampler_knows_its_parameters() -> None:
    search = Search(study())
    search.first(21)
    proposal = search.chooser.choose(21)
    assert proposal is not None
    candidate = proposal.candidate
    assert candidate.key not in search.insight.seen
    assert candidate.deployable
    trained = {Candidate.model_validate(t.user_attrs["candidate"]).student.model_dump_json() for t in search.trials}
    assert candidate.student.model_dump_json() in trained
    assert search.settings.space is not None
    assert search.settings.space.suggest(Recorded(proposal.params)) == candidate
    assert proposal.params.keys() == proposal.distributions.keys()


def test_a_student_that_is_worth_its_training_is_chosen_once_the_variants_are_tried() -> None:
    search = Search(study())
    chosen = []
    search.first(10)
    for number in range(10, 55):
        proposal = search.chooser.choose(number) or next(
            p for p in search.proposer.proposals(number) if p.key not in search.insight.seen
        )
        chosen.append(proposal)
        search.tell(ended(search.settings, number, proposal))
    widest = [p for p in chosen if p.candidate.student.width == 4.0 and p.candidate.student.architecture == "cnn_small"]
    assert widest
    assert len({p.key for p in chosen}) == len(chosen)


def test_the_same_trials_give_the_same_choice_after_a_break() -> None:
    whole = Search(study())
    whole.first(14)
    for number in range(14, 23):
        proposal = whole.chooser.choose(number)
        if proposal is not None:
            whole.tell(ended(whole.settings, number, proposal))
    resumed = Search(study())
    for trial in whole.trials:
        resumed.tell(trial)
    first, second = whole.chooser.choose(23), resumed.chooser.choose(23)
    assert first is not None
    assert second is not None
    assert (first.candidate, first.params) == (second.candidate, second.params)


@pytest.mark.parametrize(
    "objectives", ['["accuracy"]', '["fps"]', '["fps", "size_bytes"]', '["accuracy", "fps", "size_bytes", "latency_ms"]']
)
def test_any_objectives_will_do(objectives: str) -> None:
    search = Search(study(objectives))
    search.first(12)
    chosen = [search.chooser.choose(number) for number in (13, 14)]
    assert all(p is None or p.key not in search.insight.seen for p in chosen)
    if objectives == '["accuracy", "fps", "size_bytes", "latency_ms"]':
        assert any(chosen)


def test_ranges_without_steps_have_variants_too() -> None:
    search = Search(study(ratio="{ low = 0.2, high = 0.8 }"))
    search.first(12)
    assert any(search.chooser.choose(number) for number in (13, 14))


def test_what_an_ask_looks_at_is_bounded() -> None:
    search = Search(study())
    search.first(40)
    search.insight.looked_at = 0
    search.chooser.choose(41)
    assert 0 < search.insight.looked_at <= 8 + 24 * 16 * 2
    search.insight.looked_at = 0
    search.chooser.choose(43)
    assert search.insight.looked_at <= 8  # what was looked at is remembered


def test_running_trials_and_what_was_stopped_count() -> None:
    search = Search(study())
    search.first(21)
    proposal = search.chooser.choose(21)
    assert proposal is not None
    running = ended(search.settings, 21, proposal)
    running.state, running.values = TrialState.RUNNING, None
    search.tell(running)
    other = search.chooser.choose(22)
    assert other is not None
    assert other.key != proposal.key
    stopped = ended(search.settings, 21, proposal)
    stopped.state, stopped.values = TrialState.PRUNED, None
    stopped.set_user_attr("stopped", {"student": "0", "values": [0.6, 1000.0]})
    search.tell(stopped)
    assert search.chooser.choose(23) is not None


def test_a_student_whose_only_trial_failed_has_no_variants() -> None:
    settings = study()
    assert settings.space is not None
    variants = Variants(settings.space, 0, (), complete=lambda candidate: candidate)
    search = Search(settings)
    proposal = next(iter(search.proposer.proposals(0)))
    trial = ended(settings, 0, proposal)
    trial.state = TrialState.RUNNING
    variants.observe(trial, proposal.candidate)
    assert list(variants.proposals(1, []))
    trial.state = TrialState.FAIL
    variants.observe(trial, proposal.candidate)
    assert not list(variants.proposals(1, []))
    other = ended(settings, 1, proposal)  # another time it went well, and what fails then is not the student
    other.state = TrialState.COMPLETE
    variants.observe(other, proposal.candidate)
    variants.observe(trial, proposal.candidate)
    assert list(variants.proposals(2, []))
