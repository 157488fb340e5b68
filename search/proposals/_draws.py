"""A proposal, and the seeds that proposals are drawn by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from edgesearch.spaces import Candidate

__all__ = ["Proposal", "derive_seed"]


@dataclass(frozen=True)
class Proposal:
    """A candidate, and what Optuna wants to know of how it was drawn. `drawn`: from the space, not named by the study.

    `again`: the trial in which it was stopped before.
    """

    candidate: Candidate
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False
    again: int | None = None

    @cached_property
    def key(self) -> str:
        """The candidate's."""
        return self.candidate.key


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**31 from the given parts, the same on every machine."""
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) & 0x7FFFFFFF
