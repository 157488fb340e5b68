"""What is told of measurements that do not compare."""

from __future__ import annotations

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial

from edgesearch.board_eval import find_board
from edgesearch.search.foresight._scoring import Scoring
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate, Student


def trial(number: int, runner: str) -> FrozenTrial:
    """A trial that a board measured with this runner."""
    none: dict[str, BaseDistribution] = {}
    attributes = {
        "candidate": Candidate(student=Student(architecture="cnn_tiny", input_size=8)).model_dump(mode="json"),
        "simulated": {"fps": 4000.0, "latency_ms": 0.5},
        "measured_by": "lab",
        "fps": 3000.0,
        "latency_ms": 0.6,
        "conditions": {"runner": runner},
    }
    made = create_trial(values=[0.9, 3000.0], params={}, distributions=none, user_attrs=attributes)
    made.number = number
    return made


def test_a_study_that_two_runners_measured_says_so_once() -> None:
    notes: list[str] = []
    scoring = Scoring(StudyFile.load("quickstart"), find_board("zcu104"), notes.append)
    for number, runner in enumerate(["python 1 (the C++ runner does not build)", "python 1", "cpp 1", "cpp 1", "python 1"]):
        assert len(notes) == (number > 2)
        scoring.observe(trial(number, runner))
    assert len(notes) == 1
    assert notes[0].startswith("warning: trial 0 was measured with the python runner, trial 2 with the cpp one")
