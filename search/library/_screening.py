"""Candidates before training: which of a study's would be trained, which are rejected, and how far the nearest of those is."""

from __future__ import annotations

from dataclasses import dataclass

from edgesearch.errors import EdgesearchError
from edgesearch.search.engine import Proposer
from edgesearch.search.library._inputs import Inputs
from edgesearch.search.study import Constraints, quiet_optuna
from edgesearch.spaces import Candidate


@dataclass(frozen=True)
class Screened:
    """A candidate, and its metrics that are known before training."""

    candidate: Candidate
    estimate: dict[str, float]


@dataclass(frozen=True)
class Screening:
    """What the cheap objectives say of a study's candidates, or of a sample of its space."""

    kept: tuple[Screened, ...]
    rejected: int
    #: The rejected candidate that misses the study's constraints by least.
    nearest: Screened | None
    #: Why the DPU cannot run the first candidate that it cannot run.
    unsupported: str = ""

    def why_empty(self, constraints: Constraints) -> str:
        """One sentence on a study of which every candidate is rejected."""
        if self.nearest is None:
            return f"every candidate is rejected before training: {self.unsupported or 'there is none'}"
        limits = constraints.model_dump()
        misses = [
            f"{name} = {limits[name]:,g}, expected {self.nearest.estimate[name.partition('_')[2]]:,g}"
            for name in constraints.violations(self.nearest.estimate)
        ]
        return (
            f"every candidate is rejected before training; the nearest is {self.nearest.candidate} ({'; '.join(misses)}); "
            "loosen [constraints] or widen [space]"
        )


def screen(inputs: Inputs, trials: int) -> Screening:
    """Draw candidates as the study would, without telling the sampler any result, until `trials` of them are kept."""
    constraints = inputs.settings.constraints
    kept: dict[str, Screened] = {}
    rejected: set[str] = set()
    repeats: set[str] = set()
    networks: dict[str, str] = {}
    nearest: tuple[float, Screened] | None = None
    unsupported = ""
    with quiet_optuna():
        proposer = Proposer(inputs.settings)
        for number in range(trials):
            for proposal in proposer.proposals(number):
                key = proposal.candidate.key
                if key in kept or key in rejected or key in repeats:
                    continue
                try:
                    screened = Screened(proposal.candidate, inputs.estimator.estimate(proposal.candidate))
                except EdgesearchError as error:
                    unsupported = unsupported or str(error)
                    rejected.add(key)
                    continue
                distance = constraints.distance(screened.estimate)
                if distance == 0:
                    network = inputs.estimator.network_key(proposal.candidate)
                    if networks.setdefault(network, key) != key:  # one that is kept, made in another way
                        repeats.add(key)
                        continue
                    kept[key] = screened
                    break
                rejected.add(key)
                if nearest is None or distance < nearest[0]:
                    nearest = distance, screened
            if len(kept) <= number:  # the space is exhausted
                break
    return Screening(tuple(kept.values()), len(rejected), nearest[1] if nearest else None, unsupported)
