"""The space candidates are drawn from: choices per setting, asked for only where they matter.

`Space.suggest` speaks to anything with Optuna's three `suggest_*` methods, and knows nothing else of Optuna.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator

from edgesearch.plugins import is_import_path
from edgesearch.settings import Settings, explain
from edgesearch.spaces._candidate import (
    DEPLOYABLE_BITS,
    DISTILLATION_SETTINGS,
    QAT_ALGORITHMS,
    STAGED,
    TORCHVISION_STUDENTS,
    Candidate,
    Distillation,
    DistillationKind,
    Quantization,
    Student,
)
from edgesearch.spaces._choices import (
    Choices,
    Parameter,
    Range,
    Suggester,
    can_share_name,
    check_conditions,
    check_values,
    choices_of,
    draw,
    least,
    most,
    pick,
)
from edgesearch.spaces._pruning import Pruning
from edgesearch.spaces._staged_choices import StagedChoices, make_staged


class StudentOverride(Settings):
    """What one student is given instead of the space's own choices."""

    width: Choices | None = None
    input_size: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    stem: Annotated[tuple[Literal["imagenet", "small"], ...], Field(min_length=1)] | None = None
    head: int | None = None
    weights: str | None = None
    adapt: bool | None = None
    #: Arguments of a model by import path: choices, or a range of numbers, or either of them under a condition.
    parameters: dict[str, Parameter] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _ordered(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        check_conditions(parameters)
        return parameters


class Space(Settings):
    """Choices per setting. A single choice is not a parameter of the study."""

    students: tuple[str, ...] = ("cnn_tiny",)
    width: Choices = (1.0,)
    input_size: Annotated[tuple[int, ...], Field(min_length=1)] = (32,)
    stem: Annotated[tuple[Literal["imagenet", "small"], ...], Field(min_length=1)] = ("small",)
    head: int = 0
    weights: str = ""
    #: Whether what the weights lack, or have in another shape, is adapted or begins at random; otherwise they are refused.
    adapt: bool = False
    distillation: Annotated[tuple[DistillationKind, ...], Field(min_length=1)] = ("none",)
    temperature: Choices = (4.0,)
    alpha: Choices = (0.5,)
    beta: Choices = (0.5,)
    gamma: Choices = (1.5,)
    nkd_temperature: Choices = (1.0,)
    pruning: Annotated[tuple[str, ...], Field(min_length=1)] = ("none",)
    ratio: Choices = Range(low=0.1, high=0.9, step=0.1)
    #: What the ratio is of: multiply-accumulates, or the DPU's time for an image.
    pruning_target: Annotated[tuple[Literal["macs", "fps"], ...], Field(min_length=1)] = ("macs",)
    #: None: as many channels as the DPU works on side by side.
    granularity: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    steps: Annotated[tuple[int, ...], Field(min_length=1)] = (3,)
    #: Of n_m: how many of how many weights side by side are not zero.
    pattern: Annotated[tuple[str, ...], Field(min_length=1)] = ("2:4",)
    quantization: Annotated[tuple[Literal["ptq", "qat"], ...], Field(min_length=1)] = ("ptq",)
    bits: Annotated[tuple[Literal[5, 8, 16], ...], Field(min_length=1)] = (8,)
    algorithm: Annotated[tuple[str, ...], Field(min_length=1)] = ("best",)
    qat_start: Annotated[tuple[Literal["trained", "scratch"], ...], Field(min_length=1)] = ("trained",)
    #: Who prunes and who quantizes: this program, or Vitis AI's own packages in their own Python.
    pruning_backend: Annotated[tuple[Literal["edgesearch", "vai"], ...], Field(min_length=1)] = ("edgesearch",)
    quantization_backend: Annotated[tuple[Literal["edgesearch", "nndct"], ...], Field(min_length=1)] = ("edgesearch",)
    #: PTQ by pytorch_nndct: with its layer-wise fine-tuning, or without.
    fast_finetune: Annotated[tuple[bool, ...], Field(min_length=1)] = (False,)
    #: Per student: other widths, sizes, stems, heads or weights, and parameters of its own; for "staged", of its family.
    student: dict[str, StudentOverride | StagedChoices] = Field(default_factory=dict)

    @field_validator("students")
    @classmethod
    def _students(cls, students: tuple[str, ...]) -> tuple[str, ...]:
        if not students:
            raise ValueError("no student given; name at least one")
        for name in students:
            if name != STAGED:
                _valid(Student, architecture=name)
        return students

    @field_validator("student", mode="before")
    @classmethod
    def _tables(cls, tables: Any) -> Any:
        """Each table as what its student takes; errors name the student and the key."""
        if not isinstance(tables, Mapping):
            return tables
        own = {name: table for name, table in tables.items() if name == STAGED}
        others = {name: table for name, table in tables.items() if name != STAGED}
        return {**_OVERRIDES.validate_python(others), **_STAGED_CHOICES.validate_python(own)}

    @field_validator("pruning")
    @classmethod
    def _pruners(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for name in methods:
            _valid(Pruning, method=name)
        return methods

    @field_validator("pattern")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            _valid(Pruning, pattern=pattern)
        return patterns

    @field_validator("algorithm")
    @classmethod
    def _quantizers(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        for name in algorithms:
            _valid(Quantization, algorithm=name)
        return algorithms

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        for name in self.student:
            if name not in self.students:
                raise ValueError(f"student.{name} is not among students = {list(self.students)}; add it there or remove it")
        for model, names in _SETTINGS_OF.items():
            for name in names:
                check_values(model, name, getattr(self, name), name)
        for student, override in self.student.items():
            for name in ("input_size",) if isinstance(override, StagedChoices) else _SETTINGS_OF[Student]:
                check_values(Student, name, getattr(override, name), f"student.{student}.{name}")
        for student in self.students:
            if student != STAGED:  # a family's own table says how wide its stages are
                _valid(Student, architecture=student, width=most(self.choices(student, "width")))
        return self

    def resolved(self, *, channel_parallel: int) -> Space:
        """The space with what is left to the DPU filled in: the channels that it works on side by side."""
        update: dict[str, Any] = {} if self.granularity is not None else {"granularity": (channel_parallel,)}
        if STAGED in self.students:
            update["student"] = {**self.student, STAGED: self._staged.resolved(channel_parallel=channel_parallel)}
        return self.model_copy(update=update)

    def suggest(self, trial: Suggester) -> Candidate:
        """One candidate, asking `trial` only for what has more than one value and an effect."""
        student, distillation = self.suggest_training(trial)
        return self.suggest_compression(trial, student, distillation)

    def suggest_training(self, trial: Suggester) -> tuple[Student, Distillation]:
        """The first half of a candidate: a student, and how it is taught."""
        return self._student(trial), self.suggest_distillation(trial)

    def suggest_compression(self, trial: Suggester, student: Student, distillation: Distillation) -> Candidate:
        """A candidate with this first half: how the trained student is pruned and quantized."""
        pruning = self.suggest_pruning(trial)
        quantization = self.suggest_quantization(trial, pruning)
        return Candidate(student=student, distillation=distillation, pruning=pruning, quantization=quantization).canonical()

    def choices(self, student: str, setting: str) -> Any:
        """What may be chosen for a `setting` (width, input_size, stem, head, weights, adapt) of one student of the space.

        A staged student has no width, stem and head but those of its network.
        """
        if student == STAGED and setting in _NOT_OF_STAGED:
            return _NOT_OF_STAGED[setting]
        own = getattr(self.student.get(student), setting, None)
        return getattr(self, setting) if own is None else own

    def smallest_students(self) -> tuple[Student, ...]:
        """One student of each architecture: at its narrowest, which is quickly built, with its largest input."""
        return tuple(map(self._smallest, self.students))

    def other_students(self, architecture: str) -> Iterator[Student]:
        """Some others of an architecture: along all its lists and ranges together, and drawn of them, always the same."""
        for place in range(_PLACES):
            yield self._student(_At(architecture, repeat(place / (_PLACES - 1))))
        drawn = random.Random(0)
        for _ in range(_DRAWN):
            yield self._student(_At(architecture, iter(drawn.random, None)))

    def _smallest(self, student: str) -> Student:
        width, size = least(self.choices(student, "width")), max(self.choices(student, "input_size"))
        return self._make(student, width, size, self.choices(student, "stem")[0], _Least() if student == STAGED else _First())

    def _make(self, name: str, width: float, input_size: int, stem: Any, trial: Suggester) -> Student:
        own: dict[str, Any] = {}
        if name == STAGED:
            own["staged"] = make_staged(draw(self._staged.parameters(), trial, partial(self._called, STAGED)))
        elif parameters := self._override(name).parameters:
            own["parameters"] = draw(parameters, trial, partial(self._called, name))
        return Student(
            architecture=name,
            width=width,
            input_size=input_size,
            stem=stem if name in TORCHVISION_STUDENTS else "small",
            head=self.choices(name, "head"),
            weights=self.choices(name, "weights"),
            adapt=self.choices(name, "adapt"),
            **own,
        )

    @property
    def _staged(self) -> StagedChoices:
        found = self.student.get(STAGED)
        return found if isinstance(found, StagedChoices) else StagedChoices()

    def _override(self, name: str) -> StudentOverride:
        found = self.student.get(name)
        return found if isinstance(found, StudentOverride) else StudentOverride()

    def _called(self, student: str, setting: str) -> str:
        """What a study calls a setting of one student alone: NAME.setting, NAME being the last part of an import path.

        It is the whole path where another student of that name has the same setting with choices that need another name.
        """
        name = student.rpartition(":")[2]
        for other in self.students:
            if other == student or other.rpartition(":")[2] != name:
                continue
            own, theirs = (self._own_choices(which).get(setting) for which in (student, other))
            if own is not None and theirs is not None and not can_share_name(own, theirs):
                return f"{student}.{setting}"
        return f"{name}.{setting}"

    def _own_choices(self, student: str) -> dict[str, Any]:
        """What may be chosen for each setting that one student is given instead of the space's own."""
        override = self.student.get(student)
        given = {name: getattr(override, name, None) for name in ("width", "input_size", "stem")}
        parameters = self._staged.parameters() if student == STAGED else self._override(student).parameters
        own = {name: choices_of(parameter) for name, parameter in parameters.items()}
        return own | {name: choices for name, choices in given.items() if choices is not None}

    def _student(self, trial: Suggester) -> Student:
        name = pick(trial, "student", self.students)
        override = self.student.get(name, StudentOverride())

        def choose(setting: str) -> Any:
            choices = self.choices(name, setting)
            own = getattr(override, setting) is not None and not (name == STAGED and setting in _NOT_OF_STAGED)
            return pick(trial, self._called(name, setting) if own else setting, choices)

        width, input_size = choose("width"), int(choose("input_size"))
        stem = choose("stem") if name in TORCHVISION_STUDENTS else "small"
        return self._make(name, width, input_size, stem, trial)

    def suggest_distillation(self, trial: Suggester) -> Distillation:
        """How a student is taught."""
        kind: DistillationKind = pick(trial, "distillation", self.distillation)
        settings = {name: pick(trial, name, getattr(self, name)) for name in DISTILLATION_SETTINGS[kind]}
        return Distillation(kind=kind, **settings)

    def suggest_pruning(self, trial: Suggester) -> Pruning:
        """How a trained student is pruned."""
        method = pick(trial, "pruning", self.pruning)
        if method == "none":
            return Pruning()
        if method == "n_m":
            return Pruning(method=method, pattern=pick(trial, "pattern", self.pattern))
        if method == "unstructured":
            return Pruning(method=method, ratio=pick(trial, "ratio", self.ratio))
        steps = {} if method == "one_step" else {"steps": pick(trial, "steps", self.steps)}
        backend: Any = "edgesearch" if is_import_path(method) else pick(trial, "pruning_backend", self.pruning_backend)
        target: Any = "macs" if backend == "vai" else pick(trial, "pruning_target", self.pruning_target)
        return Pruning(
            method=method,
            ratio=pick(trial, "ratio", self.ratio),
            target=target,
            granularity=None if self.granularity is None else pick(trial, "granularity", self.granularity),
            backend=backend,
            **steps,
        )

    def suggest_quantization(self, trial: Suggester, pruning: Pruning) -> Quantization:
        """How a student that is pruned so is quantized."""
        bits, pruned, alone = pick(trial, "bits", self.bits), pruning.removes, pruning.sparse
        method: Any = "ptq" if bits == 16 or alone else pick(trial, "quantization", self.quantization)
        own_only = bits != DEPLOYABLE_BITS or alone
        backend: Any = "edgesearch" if own_only else pick(trial, "quantization_backend", self.quantization_backend)
        own = bits != 16 and backend == "edgesearch"
        algorithm = str(pick(trial, "algorithm", self.algorithm)) if own else "best"
        if algorithm not in QAT_ALGORITHMS:  # those only calibrate
            method = "ptq"
        start: Any = pick(trial, "qat_start", self.qat_start) if method == "qat" and not pruned else "trained"
        finetune = method == "ptq" and backend == "nndct" and bool(pick(trial, "fast_finetune", self.fast_finetune))
        return Quantization(method=method, bits=bits, algorithm=algorithm, start=start, backend=backend, fast_finetune=finetune)


class _First:
    """Answers with the first choice and the lowest number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return low


class _At(_First):
    """Answers with one student, and of every list and range with the place at the next of `shares`, from 0 to 1."""

    def __init__(self, student: str, shares: Iterator[float]) -> None:
        self._student = student
        self._shares = shares

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._student if name == "student" else choices[round(next(self._shares) * (len(choices) - 1))]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        share = next(self._shares)
        if step is not None:
            return low + step * round(share * (high - low) / step)
        return low * (high / low) ** share if log else low + share * (high - low)


class _Least(_First):
    """Answers with the smallest number, too, where choices are numbers."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return least(choices)


def _valid(kind: type[BaseModel], **fields: Any) -> None:
    """Raise ValueError, in one sentence, for what settings of this kind refuse."""
    try:
        kind.model_validate(fields)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


#: How many places of a space's lists and ranges are looked at together, and how many are drawn besides.
_PLACES, _DRAWN = 8, 40
#: A candidate's settings that a space gives values for, by the group that they belong to.
_SETTINGS_OF: dict[type[BaseModel], tuple[str, ...]] = {
    Student: ("width", "input_size", "stem", "head"),
    Distillation: ("temperature", "alpha", "beta", "gamma", "nkd_temperature"),
    Pruning: ("ratio", "granularity", "steps"),
    Quantization: ("bits",),
}

_OVERRIDES: TypeAdapter[dict[str, StudentOverride]] = TypeAdapter(dict[str, StudentOverride])
_STAGED_CHOICES: TypeAdapter[dict[str, StagedChoices]] = TypeAdapter(dict[str, StagedChoices])
#: Settings of every other student.
_NOT_OF_STAGED: dict[str, Any] = {"width": (1.0,), "stem": ("small",), "head": 0}
