"""Limits that networks are held to once their channels are chosen, and the networks that broke one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from edgesearch.objectives import Conditions, NetworkLimits, Stage, size_bytes
from edgesearch.search.engine._stages import StageEnd
from edgesearch.search.engine._trials import ActiveTrial
from edgesearch.search.study import StudyFile, TrialAttributes, attributes_of

__all__ = ["HardLimits", "is_cut_off"]

#: Where a stopped trial keeps which stage made its network, and that network's metrics.
_STAGE, _FIGURES = "made_by", "figures"


class HardLimits:
    """The limits of one study, and what broke them.

    Speeds are limited here where scores are simulated: what a board would measure is known to an interval only.
    """

    def __init__(self, settings: StudyFile, conditions: Conditions) -> None:
        self._settings = settings
        self._broken: dict[str, Mapping[str, float]] = {}  # key of a stage -> metrics of its network
        values = settings.constraints.model_dump(exclude_none=True, exclude={"min_accuracy"})
        if settings.score != "simulated":
            values = {name: value for name, value in values.items() if name == "max_size_bytes"}
        bits = [candidate.quantization.bits for candidate in settings.candidates]
        least = min([*bits, *(settings.space.bits if settings.space else ())], default=8)
        self.limits: NetworkLimits | None = None  # where there is none, or no board that tells times
        if values and conditions.timed:
            self.limits = NetworkLimits(
                values, conditions.timed, conditions.board_import_path, conditions.board_source_sha256, least
            )

    @property
    def count(self) -> int:
        """Of networks that are known to break one."""
        return len(self._broken)

    def observe(self, trial: FrozenTrial) -> None:
        """Learn from a trial of an earlier run."""
        account = attributes_of(trial).get("stopped") or {}
        if _STAGE in account:
            self._broken[account[_STAGE]] = account[_FIGURES]

    def broken_by(self, stages: Iterable[Stage]) -> Mapping[str, float] | None:
        """Metrics of the network of a candidate with these stages, where it is known to break a limit."""
        if not self._broken:
            return None
        return next((self._broken[stage.key] for stage in stages if stage.key in self._broken), None)

    def figures(self, trial: ActiveTrial, end: StageEnd) -> dict[str, float]:
        """Metrics of a trial's network that broke a limit, which was looked at with the fewest bits of the study."""
        figures = dict(end.infeasible or {})
        return figures | {"size_bytes": size_bytes(int(figures["parameters"]), trial.candidate.quantization.bits)}

    def account(self, trial: ActiveTrial, end: StageEnd) -> dict[str, Any]:
        """What is kept of a trial whose network broke a limit: why, and what the sampler is told (`values`, `constraints`).

        Its accuracy, which nobody knows, counts as its student's.
        """
        assert end.infeasible is not None
        made_by = end.stage.inputs.get("network", end.stage) if end.stage.kind == "quantized" else end.stage
        self._broken[made_by.key] = end.infeasible
        student = None if trial.own_student is None else trial.artifacts.get(trial.own_student.key)
        figures = {**self.figures(trial, end), "accuracy": 0.0 if student is None else float(student.figures["accuracy"])}
        return {
            "reason": end.failure,
            _STAGE: made_by.key,
            _FIGURES: dict(end.infeasible),
            "values": [figures[name] for name in self._settings.objectives],
            "constraints": self._settings.constraints.excesses(figures),
        }


def is_cut_off(attributes: TrialAttributes) -> bool:
    """Whether a trial with these attributes ended in the middle of a stage, since its network broke a limit."""
    return _STAGE in (attributes.get("stopped") or {})
