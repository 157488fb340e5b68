"""Candidates before training: which of a study's would be trained, which are rejected, and how far the nearest of those is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgesearch.errors import EdgesearchError
from edgesearch.search.engine import Rejections
from edgesearch.search.foresight import Scoring
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.proposals import Proposer
from edgesearch.search.report import describe_rejected
from edgesearch.search.study import quiet_optuna
from edgesearch.spaces import Candidate


@dataclass(frozen=True)
class Previewed:
    """A candidate, and its metrics that are known before training."""

    candidate: Candidate
    estimate: dict[str, float]


@dataclass(frozen=True)
class Preview:
    """What the cheap objectives say of a study's candidates, or of a sample of its space."""

    kept: tuple[Previewed, ...]
    rejected: int
    #: The rejected candidate that misses the study's constraints by least, as a study keeps it; empty when there is none.
    nearest: Mapping[str, Any] = field(default_factory=dict)
    #: Why the DPU cannot run the first candidate that it cannot run.
    unsupported: str = ""

    def why_empty(self) -> str:
        """One sentence on a study of which every candidate is rejected."""
        return why_empty(self.nearest, self.unsupported)


def why_empty(nearest: Mapping[str, Any], unsupported: str = "") -> str:
    """One sentence on a study of which every candidate is rejected; `unsupported`: why where there is no nearest."""
    if not nearest:
        return f"every candidate is rejected before training: {unsupported or 'there is none'}"
    return (
        f"every candidate is rejected before training; the nearest is {describe_rejected(nearest)}; "
        "loosen [constraints] or widen [space]"
    )


def preview(inputs: Inputs, trials: int) -> Preview:
    """Draw candidates as the study would, without telling the sampler any result, until `trials` of them are kept.

    They are judged as the study judges them while no board has measured anything.
    """
    constraints, scoring = inputs.settings.constraints, Scoring(inputs.settings, inputs.estimator.board)
    rejections = Rejections(constraints, {}, note=lambda note: None)
    kept: dict[str, Previewed] = {}
    seen: set[str] = set()
    networks: set[str] = set()
    unsupported = ""
    with quiet_optuna():
        proposer = Proposer(inputs.settings)
        for number in range(trials):
            for proposal in proposer.proposals(number):
                candidate = proposal.candidate
                if candidate.key in seen:
                    continue
                seen.add(candidate.key)
                try:
                    estimate = scoring.corrected(inputs.estimator.estimate(candidate), candidate)
                except EdgesearchError as error:
                    unsupported = unsupported or str(error)
                    rejections.unsupported(candidate, error)
                    continue
                if violations := constraints.violations(scoring.at_best(estimate, candidate)):
                    rejections.violated(candidate, estimate, violations)
                    continue
                network = inputs.estimator.network_key(candidate)
                if network not in networks:  # else it is one that is kept, made in another way
                    networks.add(network)
                    kept[candidate.key] = Previewed(candidate, estimate)
                    break
            if len(kept) <= number:  # the space is exhausted
                break
    return Preview(tuple(kept.values()), rejections.count, rejections.nearest, unsupported)
