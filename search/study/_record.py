"""A study as it is read: one frozen `Record` per trial, and a `StudyView` of all of them.

Nothing here writes. Trials that are still running or failed lack most attributes; what is missing is None or empty, never a
guess. Everything that is shown of a study (front, tables, report, dashboard) is made from these two.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgesearch.errors import StudyError
from edgesearch.search.study._attributes import account_of, attributes_of
from edgesearch.search.study._unread import without_infinite
from edgesearch.spaces import Candidate, Student, parse_candidate

#: Objectives whose ratios matter, not their differences: twice as fast is as good a step at 50 FPS as at 500.
RATIO_SCALE = frozenset({"fps", "latency_fps", "latency_ms", "size_bytes", "macs", "parameters", "joules"})


def family_of(student: Mapping[str, Any]) -> tuple[str, float | str]:
    """A stored student's name in a word and its width factor, also where this version cannot read the rest of its settings."""
    return _family_of(json.dumps(student))


@lru_cache(maxsize=4096)  # a study of thousands of trials has few students
def _family_of(settings: str) -> tuple[str, float | str]:
    student = json.loads(settings)
    try:
        read = Student.model_validate(student)
    except ValueError:
        return str(student.get("architecture", "")).rpartition(":")[2], student.get("width", "unknown")
    return read.family, read.factor


def distillation_of(settings: Mapping[str, Any]) -> str:
    """A stored candidate's kind of distillation; "none" where it has none."""
    distillation = settings.get("distillation")
    return str(distillation.get("kind", "none")) if isinstance(distillation, Mapping) else "none"


@dataclass(frozen=True)
class Objective:
    """One of the study's metrics to be optimised."""

    name: str
    maximise: bool = True

    def loss(self, value: float) -> float:
        """The value, turned so that less is better."""
        return -value if self.maximise else value

    @property
    def is_ratio(self) -> bool:
        """Whether it is compared, and drawn, on a logarithmic scale."""
        return self.name in RATIO_SCALE


@dataclass(frozen=True)
class Record:
    """One trial.

    `values` are those of `objectives`, in that order, and None unless the trial is COMPLETE. `metrics` holds every figure that
    was recorded, by name: accuracy, float_accuracy (0..1), fps, latency_fps (images per second), latency_ms, size_bytes, macs,
    parameters, estimated_fps and whatever else a board gives. `violations` maps each constraint that is not kept to the amount
    by which it is missed.
    """

    number: int
    state: str  # COMPLETE, PRUNED (stopped at a rung of its training), FAIL or RUNNING
    objectives: tuple[Objective, ...]
    values: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # the candidate as it was stored
    words: str = ""  # the candidate in words, as stored
    candidate_key: str = ""
    deployable: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)  # how the board measured: its runner, what bounds the speed
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    cache_hits: tuple[str, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    measured_by: str = ""  # the board that measured it; "": its figures are simulated
    accuracy_of: str = ""  # where a board measured: "integers", or "board" where its logits were other ones than our integers
    board_faults: tuple[Mapping[str, str], ...] = ()  # boards that lost its measurement, why and when
    violations: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    #: Of one that is PRUNED: `epochs` done `of` how many, its student's `accuracies` by rung, the interval of its own accuracy
    #: (`low`, `middle`, `high`) and the `reason`. Of one that waits at a rung, RUNNING, the same without a reason.
    stopped: Mapping[str, Any] = field(default_factory=dict)
    ask_seconds: float = 0.0
    started: datetime | None = None
    finished: datetime | None = None

    @cached_property
    def candidate(self) -> Candidate:
        """The candidate; raises SpaceError when the trial has none, or one of another version of this program."""
        return parse_candidate(dict(self.settings), f"trial {self.number}")

    @cached_property
    def recipe(self) -> str:
        """The candidate in words; empty when the trial has none that can be read."""
        if self.words:
            return self.words
        try:
            return str(Candidate.model_validate(self.settings))
        except ValueError:
            return ""

    @cached_property
    def architecture(self) -> str:
        """The student's name without the package of an import path; empty when the trial has no candidate."""
        student = self.settings.get("student")
        return family_of(student)[0] if isinstance(student, Mapping) else ""

    @property
    def is_complete(self) -> bool:
        """Whether every objective has a value, and a finite one."""
        return self.state == "COMPLETE" and self.values is not None and all(math.isfinite(value) for value in self.values)

    @property
    def is_feasible(self) -> bool:
        """Complete, and every constraint is kept."""
        return self.is_complete and not self.violations

    @property
    def losses(self) -> tuple[float, ...]:
        """The objectives' values, turned so that less is better; empty without values."""
        return tuple(o.loss(v) for o, v in zip(self.objectives, self.values or (), strict=False))

    def figure(self, name: str) -> float | None:
        """A metric or an objective by its name; None when the trial has none."""
        if name in self.metrics:
            return self.metrics[name]
        return next((v for o, v in zip(self.objectives, self.values or (), strict=False) if o.name == name), None)

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy of the quantized network on the validation images, 0..1."""
        return self.figure("accuracy")

    @property
    def float_accuracy(self) -> float | None:
        """Top-1 accuracy before quantization, 0..1."""
        return self.figure("float_accuracy")

    @property
    def fps(self) -> float | None:
        """Images per second with every core of the board busy."""
        return self.figure("fps")

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds for one image."""
        return self.figure("latency_ms")

    @property
    def size_bytes(self) -> float | None:
        """Bytes of the weights as the DPU stores them."""
        return self.figure("size_bytes")

    @property
    def macs(self) -> float | None:
        """Multiply-accumulates for one image."""
        return self.figure("macs")

    @property
    def parameters(self) -> float | None:
        """Trained numbers in the network."""
        return self.figure("parameters")


@dataclass(frozen=True)
class StudyView:
    """A study as it was when it was read."""

    name: str
    objectives: tuple[Objective, ...]
    constraints: Mapping[str, float]
    records: tuple[Record, ...]
    rejected: int = 0
    repeats: int = 0
    rejections: Mapping[str, int] = field(default_factory=dict)  # why asks were rejected -> how many
    #: The rejected candidate that misses the constraints by least: `candidate`, and `misses`, by constraint {limit, expected}.
    nearest_rejected: Mapping[str, Any] = field(default_factory=dict)
    #: Trial -> top-1 on the test images: of the front, or of all where the study names all its candidates.
    test_accuracy: Mapping[int, float] = field(default_factory=dict)
    float_test_accuracy: Mapping[int, float] = field(default_factory=dict)  # the same before quantization
    description: str = ""
    board: str = ""
    data: str = ""  # the data set's name
    #: Boards of the last run -> state, reason, jobs served and lost; empty where none measured.
    boards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Images that accuracies were counted on; None where it was not recorded.
    validation_images: int | None = None

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Trials by state: COMPLETE, PRUNED, FAIL and RUNNING, each there even when it is zero."""
        ended = Counter(record.state for record in self.records)
        return {state: ended[state] for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}

    @cached_property
    def controls(self) -> Mapping[int, Record]:
        """For each complete trial with distillation the complete one that differs in having none, where there is one."""
        plain: dict[str, Record] = {}
        taught: list[tuple[int, str]] = []
        for record in self.records:
            if not record.is_complete or not record.settings:
                continue
            others = json.dumps({name: v for name, v in record.settings.items() if name != "distillation"}, sort_keys=True)
            if distillation_of(record.settings) == "none":
                plain.setdefault(others, record)
            else:
                taught.append((record.number, others))
        return {number: plain[others] for number, others in taught if others in plain}

    def gain_over_control(self, record: Record) -> float | None:
        """By how much (of 1) a trial is more accurate than the one that differs in having no distillation."""
        control = self.controls.get(record.number)
        if control is None or control.accuracy is None or record.accuracy is None:
            return None
        return record.accuracy - control.accuracy


def read_study(study: optuna.Study) -> StudyView:
    """All that is shown of a study. Raises StudyError for one that edgesearch did not make."""
    attributes = study.user_attrs
    settings = attributes.get("study")
    if not isinstance(settings, dict):
        raise StudyError(f"study {study.study_name!r} was not made by edgesearch; name another one")
    objectives = _read_objectives(study, settings)
    constraints = without_infinite(settings.get("constraints") or {})
    return StudyView(
        name=study.study_name,
        objectives=objectives,
        constraints={name: float(limit) for name, limit in constraints.items() if limit is not None},
        records=tuple(_read_trial(trial, objectives) for trial in study.get_trials(deepcopy=False)),
        rejected=int(attributes.get("rejected", 0)),
        repeats=int(attributes.get("repeats", 0)),
        rejections=dict(attributes.get("rejections", {})),
        nearest_rejected=attributes.get("nearest_rejected") or {},
        test_accuracy=_by_trial(attributes.get("test_accuracy")),
        float_test_accuracy=_by_trial(attributes.get("float_test_accuracy")),
        description=str(settings.get("description") or ""),
        board=str(settings.get("board") or ""),
        data=str((settings.get("data") or {}).get("name") or ""),
        boards=attributes.get("boards") or {},
        validation_images=_count(attributes.get("validation_images")),
    )


def read_records(study: optuna.Study) -> list[Record]:
    """One Record per trial, in the order of their numbers. Raises StudyError for a study that edgesearch did not make."""
    return list(read_study(study).records)


def _read_objectives(study: optuna.Study, settings: Mapping[str, Any]) -> tuple[Objective, ...]:
    directions = study.directions
    names = study.metric_names or list(settings.get("objectives", []))
    if len(names) != len(directions):
        raise StudyError(f"study {study.study_name!r} has {len(directions)} objectives but names {len(names)}; it is damaged")
    return tuple(Objective(name, d == StudyDirection.MAXIMIZE) for name, d in zip(names, directions, strict=True))


def _read_trial(trial: FrozenTrial, objectives: tuple[Objective, ...]) -> Record:
    attributes = attributes_of(trial)
    return Record(
        number=trial.number,
        state=TrialState.RUNNING.name if trial.state == TrialState.WAITING else trial.state.name,
        objectives=objectives,
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
        settings=attributes.get("candidate") or {},
        words=str(attributes.get("recipe") or ""),
        candidate_key=attributes.get("candidate_key", ""),
        deployable=bool(attributes.get("deployable", False)),
        metrics={name: value for name, value in trial.user_attrs.items() if _is_figure(name, value)},
        conditions=attributes.get("conditions") or {},
        stage_seconds=attributes.get("stage_seconds") or {},
        cache_hits=tuple(attributes.get("cache_hits") or ()),
        artifacts=attributes.get("artifacts") or {},
        measured_by=str(attributes.get("measured_by") or ""),
        accuracy_of=str(attributes.get("accuracy_of") or ""),
        board_faults=tuple(attributes.get("board_faults") or ()),
        violations=attributes.get("violations") or {},
        failure=str(attributes.get("failure") or ""),
        stopped=_stopped(trial) if trial.state != TrialState.COMPLETE else {},
        ask_seconds=float(attributes.get("ask_seconds") or 0.0),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
    )


def _stopped(trial: FrozenTrial) -> Mapping[str, Any]:
    account = account_of(trial)
    return account if isinstance(account, dict) else {}


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and name not in ("ask_seconds", "again")


def _by_trial(stored: Mapping[str, float | None] | None) -> dict[int, float]:
    return {int(number): float(value) for number, value in (stored or {}).items() if value is not None}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
