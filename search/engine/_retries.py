"""Candidates whose trials failed, to be tried again: with the code of their own networks as it is by now, since a person who
mends a network asks for just that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from edgesearch.search.study import candidate_of, without_code
from edgesearch.spaces import Candidate, complete_candidate, identity, without_checksums_of_code


def form(candidate: Candidate) -> str:
    """What a candidate is but for the code that it names by import path: the same text for the same."""
    return json.dumps(without_code(identity(candidate.canonical())), sort_keys=True)


class Failure(NamedTuple):
    """A candidate, complete with the code of now, and its last trial, which failed."""

    candidate: Candidate
    trial: FrozenTrial


def failures(trials: Iterable[FrozenTrial], folder: Path | None) -> list[Failure]:
    """The candidates whose last trial failed, each once; trials come in their order.

    Left out is what has a trial that ended otherwise, or is under way, with that very code.
    """
    failed: dict[str, Failure] = {}  # by form
    others: set[str] = set()  # keys
    for trial in trials:
        candidate = candidate_of(trial)
        if trial.state == TrialState.FAIL:
            failed[form(candidate)] = Failure(candidate, trial)
        else:
            others.add(candidate.key)
            failed.pop(form(candidate), None)
    renewed = (
        Failure(complete_candidate(without_checksums_of_code(candidate), folder=folder), trial)
        for candidate, trial in failed.values()
    )
    return [failure for failure in renewed if failure.candidate.key not in others]
