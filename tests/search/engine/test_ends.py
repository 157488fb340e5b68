from __future__ import annotations

import pytest
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.search.engine._ends import Ends


def fail(ends: Ends, times: int) -> None:
    for _ in range(times):
        ends.add(TrialState.FAIL)
        ends.check_hope("no luck")


def test_the_eighth_failure_of_a_run_is_the_last_where_nothing_else_ended() -> None:
    ends = Ends()
    fail(ends, 7)
    with pytest.raises(StudyError, match="the first 8 trials all failed, the last with: no luck"):
        fail(ends, 1)


def test_failures_of_earlier_runs_are_told_but_stop_no_run_that_has_few() -> None:
    ends = Ends()
    for _ in range(8):
        ends.observe(TrialState.FAIL)
    fail(ends, 7)
    with pytest.raises(StudyError, match="the first 16 trials all failed"):
        fail(ends, 1)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_study_with_a_trial_that_did_not_fail_goes_on_whenever_that_was(state: TrialState) -> None:
    earlier, now = Ends(), Ends()
    earlier.observe(state)
    fail(earlier, 20)
    now.add(state)
    fail(now, 20)
    assert earlier.total == now.total == 21
    assert (earlier.in_this_run(state), now.in_this_run(state)) == (0, 1)
    assert earlier.in_this_run(TrialState.FAIL) == 20
