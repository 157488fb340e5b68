"""What is known of candidates before they are trained."""

from __future__ import annotations

from optuna.trial import TrialState, create_trial

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, Estimator, load_data
from edgesearch.search.engine._hard_limits import HardLimits
from edgesearch.search.engine._plans import Plans
from edgesearch.search.engine._screening import Screening
from edgesearch.search.foresight._foresight import Foresight
from edgesearch.search.foresight._scoring import Scoring
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate

STUDY = StudyFile.parse(
    {
        "name": "tiny",
        "data": {"name": "digits", "train_images": 120, "validation_images": 100, "calibration_images": 20},
        "space": {"students": ["cnn_tiny"], "input_size": [8]},
        "constraints": {"min_fps": 10.0},
    }
)
PRUNED = {"student": {"architecture": "cnn_tiny", "input_size": 8}, "pruning": {"method": "one_step", "ratio": 0.5}}


def test_candidates_with_the_network_that_broke_a_limit_violate_it_whatever_is_estimated() -> None:
    data, board = load_data(STUDY.data), find_board(STUDY.board)
    conditions = Conditions.of(data, STUDY.pipeline, board)
    limits, plans = HardLimits(STUDY, conditions), Plans(STUDY.pipeline, conditions)
    estimator = Foresight(Estimator(channels=1, classes=10, board=board), None, None, is_idle=lambda: True)
    screening = Screening(STUDY, estimator, Scoring(STUDY, board), limits, plans.stages)
    candidate = Candidate.model_validate(PRUNED).resolved(granularity=16)
    sibling = Candidate.model_validate(PRUNED | {"quantization": {"algorithm": "vitis"}}).resolved(granularity=16)
    other = Candidate.model_validate({"student": PRUNED["student"]})
    before = screening.of(candidate)
    assert (before.violations, before.known, screening.revision) == ({}, before.estimate, 0)

    made_by = next(stage.key for stage in plans.stages(candidate) if stage.kind == "pruned")
    stopped = {"made_by": made_by, "figures": before.estimate | {"fps": 4.0}}
    limits.observe(create_trial(state=TrialState.PRUNED, user_attrs={"stopped": stopped}))
    for each in (candidate, sibling):
        after = screening.of(each)
        assert (after.violations, after.known["fps"]) == ({"min_fps": 6.0}, 4.0)
        assert after.estimate == before.estimate
    assert screening.revision == 1  # what was remembered of candidates is looked at anew
    assert not screening.of(other).violations
