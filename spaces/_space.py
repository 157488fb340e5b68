"""The space candidates are drawn from: choices per setting, asked for only where they matter.

`Space.suggest` speaks to anything with Optuna's three `suggest_*` methods, and knows nothing else of Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator

from edgesearch.plugins import is_import_path
from edgesearch.spaces._candidate import (
    DEPLOYABLE_BITS,
    TORCHVISION_STUDENTS,
    Candidate,
    Distillation,
    Pruning,
    Quantization,
    Settings,
    Student,
)
from edgesearch.spaces._validation import explain


class Suggester(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """A number from `low` to `high`."""


class Range(Settings):
    """Numbers from `low` to `high`, both included; with `step` only multiples of it above `low`."""

    low: float
    high: float
    step: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}; exchange them")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range needs low > 0 and no step")
        return self

    def suggest(self, trial: Suggester, name: str) -> float:
        """A number of the range, rounded to nine digits so that equal steps are equal numbers."""
        value = round(float(trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)), 9)
        return min(max(value, self.low), self.high)

    @property
    def size(self) -> float:
        """How many different values there are."""
        if self.step is None and self.low < self.high:
            return math.inf
        return 1 + round((self.high - self.low) / (self.step or 1.0))


Choices: TypeAlias = Annotated[tuple[float, ...], Field(min_length=1)] | Range


class StudentOverride(Settings):
    """What one student is given instead of the space's own choices."""

    width: Choices | None = None
    input_size: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    stem: Annotated[tuple[Literal["imagenet", "small"], ...], Field(min_length=1)] | None = None
    head: int | None = None
    weights: str | None = None
    #: Arguments of a model by import path: choices, or a range of numbers.
    parameters: dict[str, Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)] | Range] = Field(
        default_factory=dict
    )


class Space(Settings):
    """Choices per setting. A single choice is not a parameter of the study."""

    students: tuple[str, ...] = ("cnn_tiny",)
    width: Choices = (1.0,)
    input_size: Annotated[tuple[int, ...], Field(min_length=1)] = (32,)
    stem: Annotated[tuple[Literal["imagenet", "small"], ...], Field(min_length=1)] = ("small",)
    head: int = 0
    weights: str = ""
    distillation: Annotated[tuple[Literal["none", "logit", "intermediate", "self"], ...], Field(min_length=1)] = ("none",)
    temperature: Choices = (4.0,)
    alpha: Choices = (0.5,)
    beta: Choices = (0.5,)
    pruning: Annotated[tuple[str, ...], Field(min_length=1)] = ("none",)
    ratio: Choices = Range(low=0.1, high=0.9, step=0.1)
    #: None: as many channels as the DPU works on side by side.
    granularity: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    steps: Annotated[tuple[int, ...], Field(min_length=1)] = (3,)
    quantization: Annotated[tuple[Literal["ptq", "qat"], ...], Field(min_length=1)] = ("ptq",)
    bits: Annotated[tuple[Literal[5, 8, 16], ...], Field(min_length=1)] = (8,)
    algorithm: Annotated[tuple[str, ...], Field(min_length=1)] = ("best",)
    qat_start: Annotated[tuple[Literal["trained", "scratch"], ...], Field(min_length=1)] = ("trained",)
    #: Who prunes and who quantizes: this program, or Vitis AI's own packages in their own Python.
    pruning_backend: Annotated[tuple[Literal["edgesearch", "vai"], ...], Field(min_length=1)] = ("edgesearch",)
    quantization_backend: Annotated[tuple[Literal["edgesearch", "nndct"], ...], Field(min_length=1)] = ("edgesearch",)
    #: PTQ by pytorch_nndct: with its layer-wise fine-tuning, or without.
    fast_finetune: Annotated[tuple[bool, ...], Field(min_length=1)] = (False,)
    #: Per student: other widths, sizes, stems, heads or weights, and parameters of its own.
    student: dict[str, StudentOverride] = Field(default_factory=dict)

    @field_validator("students")
    @classmethod
    def _students(cls, students: tuple[str, ...]) -> tuple[str, ...]:
        if not students:
            raise ValueError("no student given; name at least one")
        for name in students:
            _valid(Student, architecture=name)
        return students

    @field_validator("pruning")
    @classmethod
    def _pruners(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for name in methods:
            _valid(Pruning, method=name)
        return methods

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
                _check_values(model, name, getattr(self, name), name)
        for student, override in self.student.items():
            for name in _SETTINGS_OF[Student]:
                _check_values(Student, name, getattr(override, name), f"student.{student}.{name}")
        return self

    def suggest(self, trial: Suggester) -> Candidate:
        """One candidate, asking `trial` only for what has more than one value and an effect."""
        student, distillation, pruning = self._student(trial), self._distillation(trial), self._pruning(trial)
        quantization = self._quantization(trial, pruned=pruning.method != "none" and pruning.ratio > 0)
        return Candidate(student=student, distillation=distillation, pruning=pruning, quantization=quantization).canonical()

    def choices(self, student: str, setting: str) -> Any:
        """What may be chosen for a `setting` (width, input_size, stem, head, weights) of one student of the space."""
        own = getattr(self.student.get(student), setting, None)
        return getattr(self, setting) if own is None else own

    def smallest_students(self) -> tuple[Student, ...]:
        """One student of each architecture: at its narrowest, which is quickly built, with its largest input."""
        return tuple(map(self._smallest, self.students))

    def _smallest(self, student: str) -> Student:
        override = self.student.get(student, StudentOverride())
        parameters = {name: c.low if isinstance(c, Range) else c[0] for name, c in override.parameters.items()}
        width, size = _least(self.choices(student, "width")), max(self.choices(student, "input_size"))
        return self._make(student, width, size, self.choices(student, "stem")[0], parameters)

    def _make(self, name: str, width: float, input_size: int, stem: Any, parameters: dict[str, Any]) -> Student:
        return Student(
            architecture=name,
            width=width,
            input_size=input_size,
            stem=stem if name in TORCHVISION_STUDENTS else "small",
            head=self.choices(name, "head"),
            weights=self.choices(name, "weights"),
            parameters=parameters,
        )

    def _student(self, trial: Suggester) -> Student:
        name = _pick(trial, "student", self.students)
        override = self.student.get(name, StudentOverride())
        prefix = name.rpartition(":")[2]

        def choose(setting: str) -> Any:
            label = setting if getattr(override, setting) is None else f"{prefix}.{setting}"
            return _pick(trial, label, self.choices(name, setting))

        width, input_size = choose("width"), int(choose("input_size"))
        stem = choose("stem") if name in TORCHVISION_STUDENTS else "small"
        parameters = {key: _pick(trial, f"{prefix}.{key}", choices) for key, choices in override.parameters.items()}
        return self._make(name, width, input_size, stem, parameters)

    def _distillation(self, trial: Suggester) -> Distillation:
        kind = _pick(trial, "distillation", self.distillation)
        if kind == "none":
            return Distillation()
        settings = {name: _pick(trial, name, getattr(self, name)) for name in ("temperature", "alpha")}
        if kind == "intermediate":
            settings["beta"] = _pick(trial, "beta", self.beta)
        return Distillation(kind=kind, **settings)

    def _pruning(self, trial: Suggester) -> Pruning:
        method = _pick(trial, "pruning", self.pruning)
        if method == "none":
            return Pruning()
        steps = {} if method == "one_step" else {"steps": _pick(trial, "steps", self.steps)}
        return Pruning(
            method=method,
            ratio=_pick(trial, "ratio", self.ratio),
            granularity=None if self.granularity is None else _pick(trial, "granularity", self.granularity),
            backend="edgesearch" if is_import_path(method) else _pick(trial, "pruning_backend", self.pruning_backend),
            **steps,
        )

    def _quantization(self, trial: Suggester, *, pruned: bool) -> Quantization:
        bits = _pick(trial, "bits", self.bits)
        method: Any = _pick(trial, "quantization", self.quantization) if bits != 16 else "ptq"
        backend: Any = (
            "edgesearch" if bits != DEPLOYABLE_BITS else _pick(trial, "quantization_backend", self.quantization_backend)
        )
        own = bits != 16 and backend == "edgesearch"
        algorithm = str(_pick(trial, "algorithm", self.algorithm)) if own else "best"
        if is_import_path(algorithm):  # a quantizer of the user's own calibrates; training has none
            method = "ptq"
        start: Any = _pick(trial, "qat_start", self.qat_start) if method == "qat" and not pruned else "trained"
        finetune = method == "ptq" and backend == "nndct" and bool(_pick(trial, "fast_finetune", self.fast_finetune))
        return Quantization(method=method, bits=bits, algorithm=algorithm, start=start, backend=backend, fast_finetune=finetune)


def _pick(trial: Suggester, name: str, choices: Choices | Sequence[Any]) -> Any:
    if isinstance(choices, Range):
        return choices.low if choices.low == choices.high else choices.suggest(trial, name)
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, list(choices))


def _valid(kind: type[BaseModel], **fields: Any) -> None:
    """Raise ValueError, in one sentence, for what settings of this kind refuse."""
    try:
        kind(**fields)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _least(choices: Choices) -> float:
    return choices.low if isinstance(choices, Range) else min(choices)


#: A candidate's settings that a space gives values for, by the group that they belong to.
_SETTINGS_OF: dict[type[BaseModel], tuple[str, ...]] = {
    Student: ("width", "input_size", "stem", "head"),
    Distillation: ("temperature", "alpha", "beta"),
    Pruning: ("ratio", "granularity", "steps"),
    Quantization: ("bits",),
}


def _check_values(model: type[BaseModel], name: str, choices: Any, where: str) -> None:
    """Raise ValueError naming the first value that a candidate cannot have."""
    if choices is None:
        return
    field = model.model_fields[name]
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    expected: TypeAdapter[Any] = TypeAdapter(kind)
    if isinstance(choices, Range):
        choices = (choices.low, choices.high)
    for value in choices if isinstance(choices, tuple) else (choices,):
        try:
            expected.validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise ValueError(f"{where} = {value!r}, expected {message}") from error
