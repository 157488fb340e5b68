"""What a study's trials keep beside Optuna's own: the names of their attributes, what each holds, and readers of several.

Whoever writes or reads one names it here, so that a type checker knows it. docs/study-database.md tells a person the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, cast

from optuna.trial import FrozenTrial

from edgesearch.spaces import Candidate

__all__ = ["TrialAttributes", "account_of", "attributes_of", "candidate_of", "estimate_of", "first_attributes"]

_ESTIMATED = "estimated_"


class TrialAttributes(TypedDict, total=False):
    """Attributes of one trial; those of the second and third group come with its end.

    Beside them are a trial's figures, each a number by its name (accuracy, fps, latency_ms, ...), and what was expected of
    those before training, by the same names behind `estimated_`.
    """

    # From its begin.
    candidate: dict[str, Any]
    candidate_key: str
    network_key: str
    recipe: str
    deployable: bool
    ask_seconds: float
    found: list[str]
    again: int
    paused: dict[str, Any]
    # However it ends.
    stage_seconds: dict[str, float]
    cache_hits: list[str]
    board_faults: list[dict[str, str]]
    failure: str
    stopped: dict[str, Any]
    violations: dict[str, float]
    # Of one that is complete.
    artifacts: dict[str, str]
    conditions: dict[str, str]
    rungs: dict[str, Any]
    measured_by: str
    measured_at: str
    accuracy_of: str
    simulated: dict[str, Any]
    correction: dict[str, Any]
    accuracy: float
    fps: float
    latency_ms: float


def attributes_of(trial: FrozenTrial) -> TrialAttributes:
    """The attributes of a trial of edgesearch's; of an older version's some may be missing."""
    return cast(TrialAttributes, trial.user_attrs)


def candidate_of(trial: FrozenTrial) -> Candidate:
    """Its candidate. Raises pydantic's ValidationError for one that this version does not know; see `create_or_resume`."""
    return Candidate.model_validate(attributes_of(trial)["candidate"])


def account_of(trial: FrozenTrial) -> dict[str, Any] | None:
    """What is known of a trial that was stopped early, or that waits at a rung; None for others."""
    attributes = attributes_of(trial)
    return attributes.get("stopped") or attributes.get("paused")


def first_attributes(
    candidate: Candidate,
    network_key: str,
    estimate: Mapping[str, float],
    found: Iterable[str],
    *,
    seconds: float,
    again: int | None,
) -> dict[str, Any]:
    """What a trial begins with.

    estimate: the figures that are expected of it. found: the keys of the stages that are in the store. seconds: what its choice
    took. again: the number of a stopped trial that it repeats.
    """
    attributes: TrialAttributes = {
        "candidate": candidate.model_dump(mode="json"),
        "candidate_key": candidate.key,
        "network_key": network_key,
        "recipe": str(candidate),
        "deployable": candidate.deployable,
        "ask_seconds": round(seconds, 4),
        "found": sorted(set(found)),
    }
    if again is not None:
        attributes["again"] = again
    return {**attributes, **{f"{_ESTIMATED}{name}": value for name, value in estimate.items()}}


def estimate_of(attributes: Mapping[str, object]) -> dict[str, float]:
    """The figures that were expected before training, of a trial's attributes."""
    found = {name.removeprefix(_ESTIMATED): value for name, value in attributes.items() if name.startswith(_ESTIMATED)}
    return cast(dict[str, float], found)
