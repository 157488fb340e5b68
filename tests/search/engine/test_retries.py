"""What is tried again after failures: each candidate once, with the code of its own network as it is by now."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.search.engine._retries import failures
from edgesearch.spaces import Candidate, Pruning, Student, complete_candidate

FAIL, COMPLETE, RUNNING = TrialState.FAIL, TrialState.COMPLETE, TrialState.RUNNING
OTHER = Candidate(student=Student(architecture="cnn_small"))


def trial(state: TrialState, candidate: Candidate) -> FrozenTrial:
    values = [0.5, 0.5] if state == COMPLETE else None
    return create_trial(state=state, values=values, user_attrs={"candidate": candidate.model_dump(mode="json")})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    edit(tmp_path, "first")
    return tmp_path


def tried_again(trials: list[FrozenTrial], project: Path) -> list[Candidate]:
    return [failure.candidate for failure in failures(trials, project)]


def edit(project: Path, what: str) -> None:
    code = f"import torch\nclass Net(torch.nn.Linear):\n    pass\n# {what}\n"
    for name in ("retried_net", "retried_pruner"):
        (project / f"{name}.py").write_text(code)


def own(project: Path) -> Candidate:
    """A candidate of a network and a pruner of one's own, with their code of now."""
    pruning = Pruning(method="retried_pruner:Net", ratio=0.5)
    candidate = Candidate(student=Student(architecture="retried_net:Net"), pruning=pruning)
    return complete_candidate(candidate, folder=project)


def test_each_candidate_that_failed_last_is_tried_once(project: Path) -> None:
    other = complete_candidate(OTHER, folder=project)
    trials = [trial(FAIL, own(project)), trial(FAIL, other), trial(FAIL, own(project))]
    assert tried_again(trials, project) == [own(project), other]


@pytest.mark.parametrize("state", [COMPLETE, RUNNING, TrialState.PRUNED])
def test_what_ended_otherwise_since_is_left_out(state: TrialState, project: Path) -> None:
    assert tried_again([trial(FAIL, OTHER), trial(state, OTHER)], project) == []


def test_mended_code_is_what_is_tried(project: Path) -> None:
    old = own(project)
    edit(project, "mended")
    found = tried_again([trial(FAIL, old)], project)
    assert found == [own(project)]
    assert found[0].student.source_sha256 != old.student.source_sha256
    assert found[0].pruning.source_sha256 != old.pruning.source_sha256


def test_failures_of_several_versions_of_the_code_are_one_candidate(project: Path) -> None:
    trials = [trial(FAIL, own(project))]
    edit(project, "second")
    trials.append(trial(FAIL, own(project)))
    edit(project, "third")
    assert tried_again(trials, project) == [own(project)]


def test_what_succeeded_with_other_code_is_not_tried_again(project: Path) -> None:
    trials = [trial(FAIL, own(project))]
    edit(project, "second")
    trials.append(trial(COMPLETE, own(project)))
    edit(project, "third")
    assert tried_again(trials, project) == []


def test_what_was_spoilt_and_put_back_has_its_trial(project: Path) -> None:
    trials = [trial(COMPLETE, own(project))]
    edit(project, "spoilt")
    trials.append(trial(FAIL, own(project)))
    edit(project, "first")
    assert tried_again(trials, project) == []
    edit(project, "another")
    assert tried_again(trials, project) == [own(project)]
