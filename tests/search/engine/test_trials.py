"""Which of a trial's stages is the training of its own student."""

from __future__ import annotations

import pytest

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, plan
from edgesearch.search.engine._trials import ActiveTrial
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate

#: Its teacher is trained as its students are, so that it is a stage of their kind.
STUDY = StudyFile.parse(
    {
        "name": "alike",
        "teacher": {"architecture": "cnn_tiny", "input_size": 8},
        "space": {"students": ["cnn_small"], "input_size": [8]},
    }
)


def trial(kind: str, method: str, start: str) -> ActiveTrial:
    student = {"architecture": "cnn_small", "input_size": 8}
    settings = {"student": student, "distillation": {"kind": kind}, "quantization": {"method": method, "start": start}}
    candidate = Candidate.model_validate(settings).resolved(granularity=16).canonical()
    board = find_board("zcu104")
    images = {"train": 100, "validation": 20, "calibration": 10, "test": 20}
    conditions = Conditions(
        data=dict.fromkeys(("meta", *images), "here"),
        board=board.content,
        timed=board.content,
        granularity=16,
        images=images,
    )
    return ActiveTrial(0, candidate, list(plan(candidate, STUDY.pipeline, conditions).walk()))


@pytest.mark.parametrize("kind", ["none", "self", "logit"])
def test_it_is_the_one_behind_its_teacher_whose_stage_is_of_the_same_kind(kind: str) -> None:
    trained = trial(kind, "qat", "trained")
    assert sum(stage.kind == "student" for stage in trained.stages) == (1 if kind == "none" else 2)
    own = trained.own_student
    assert own is not None
    assert own.parameters["student"]["architecture"] == "cnn_small"
    assert own.parameters.get("distillation", {}).get("kind", "none") == kind


@pytest.mark.parametrize("kind", ["self", "logit"])
def test_qat_from_scratch_has_none_though_its_teacher_is_of_that_kind(kind: str) -> None:
    scratch = trial(kind, "qat", "scratch")
    assert "student" in {stage.kind for stage in scratch.stages}
    assert scratch.own_student is None
