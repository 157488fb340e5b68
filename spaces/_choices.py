"""What a parameter of the search may be: a list, a range of numbers, or either of them under a condition.

The parameters of a network, the family's own and those that a user's class declares, are a table of these. They are asked for
in its order, and only where they exist:

    {"stages": [2, 3], "width3": {"when": {"stages": [3]}, "choices": {"low": 16, "high": 64, "step": 16}}}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Protocol, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from edgesearch.settings import Settings

__all__ = [
    "Choices",
    "Conditional",
    "Parameter",
    "Range",
    "Suggester",
    "Value",
    "can_share_name",
    "check_conditions",
    "check_values",
    "choices_of",
    "draw",
    "least",
    "most",
    "next_places",
    "pick",
]

Value: TypeAlias = bool | int | float | str


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
    step: float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}; exchange them")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range needs low > 0 and no step")
        return self

    @property
    def last(self) -> float:
        """The largest of its numbers: the last step may end below `high`. In decimals, as Optuna counts."""
        if self.step is None:
            return self.high
        return float(Decimal(str(self.low)) + (round(self.size) - 1) * Decimal(str(self.step)))

    def suggest(self, trial: Suggester, name: str) -> float:
        """A number of the range, rounded to nine digits (of small numbers significant ones): equal steps are equal numbers."""
        value = float(trial.suggest_float(name, self.low, self.last, step=self.step, log=self.log))
        unit = abs(value) if self.step is None else self.step
        digits = 9 if unit == 0 else max(9, 8 - math.floor(math.log10(unit)))
        return min(max(round(value, digits), self.low), self.high)

    @property
    def size(self) -> float:
        """How many different values there are."""
        if self.step is None and self.low < self.high:
            return math.inf
        return 1 + math.floor((self.high - self.low) / (self.step or 1.0) + 1e-9)

    @property
    def is_whole(self) -> bool:
        """Whether it has steps and all its values are whole numbers."""
        return self.step is not None and self.low.is_integer() and self.step.is_integer()


Choices: TypeAlias = Annotated[tuple[float, ...], Field(min_length=1)] | Range


def _kind(given: Any) -> str:
    if isinstance(given, Conditional) or (isinstance(given, Mapping) and "when" in given):
        return "[when]"
    return "[range]" if isinstance(given, Range | Mapping) else "[values]"


_Values: TypeAlias = Annotated[tuple[Value, ...], Field(min_length=1)]
#: A tag in brackets is no part of the key that an error names.
_ValuesOrRange: TypeAlias = Annotated[
    Annotated[_Values, Tag("[values]")] | Annotated[Range, Tag("[range]")], Discriminator(_kind)
]


class Conditional(Settings):
    """A parameter that exists only where each of `when`'s parameters, declared before it, has one of its values."""

    when: Annotated[dict[str, _Values], Field(min_length=1)]
    choices: _ValuesOrRange


Parameter: TypeAlias = Annotated[
    Annotated[_Values, Tag("[values]")] | Annotated[Range, Tag("[range]")] | Annotated[Conditional, Tag("[when]")],
    Discriminator(_kind),
]


def pick(trial: Suggester, name: str, choices: Range | Sequence[Any]) -> Any:
    """One of the choices; the trial is asked only where there is more than one."""
    if isinstance(choices, Range):
        return choices.low if choices.low == choices.high else choices.suggest(trial, name)
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, list(choices))


def next_places(places: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """Which of so many choices each comes behind these: the last that has another takes it, and what follows it starts anew.

    None where none has another.
    """
    for depth in reversed(range(len(sizes))):
        if places[depth] + 1 < sizes[depth]:
            return [*places[:depth], places[depth] + 1]
    return None


def choices_of(parameter: Parameter) -> Range | Sequence[Value]:
    """What a parameter may be, where it exists."""
    return parameter.choices if isinstance(parameter, Conditional) else parameter


def can_share_name(first: Range | Sequence[Any], second: Range | Sequence[Any]) -> bool:
    """Whether a study can ask for both by one name: for the same list, for ranges of one scale, or for one of them never."""
    if any((choices.size if isinstance(choices, Range) else len(choices)) == 1 for choices in (first, second)):
        return True
    if isinstance(first, Range) or isinstance(second, Range):
        return isinstance(first, Range) and isinstance(second, Range) and first.log == second.log
    return list(first) == list(second)


def least(choices: Range | Sequence[Any]) -> Any:
    """The smallest number, or the first of choices that are not all numbers."""
    if isinstance(choices, Range):
        return choices.low
    return min(choices) if all(isinstance(value, int | float) for value in choices) else choices[0]


def most(choices: Range | Sequence[float]) -> float:
    """The largest number."""
    return choices.high if isinstance(choices, Range) else max(choices)


def draw(parameters: Mapping[str, Parameter], trial: Suggester, called: Callable[[str], str]) -> dict[str, Value]:
    """A value of each parameter that exists, asked for as what its name is `called`.

    Ranges of whole numbers with steps give integers.
    """
    drawn: dict[str, Value] = {}
    for name, parameter in parameters.items():
        when = parameter.when if isinstance(parameter, Conditional) else {}
        if not all(other in drawn and drawn[other] in values for other, values in when.items()):
            continue
        choices = choices_of(parameter)
        value = pick(trial, called(name), choices)
        drawn[name] = round(value) if isinstance(choices, Range) and choices.is_whole else value
    return drawn


def check_conditions(parameters: Mapping[str, Parameter]) -> None:
    """Raise ValueError for a condition on a parameter that is not declared before it."""
    known: set[str] = set()
    for name, parameter in parameters.items():
        unknown = [other for other in parameter.when if other not in known] if isinstance(parameter, Conditional) else []
        if unknown:
            raise ValueError(f"{name} depends on {unknown[0]!r}, which is not declared before it; declare it first")
        known.add(name)


def check_values(model: type[BaseModel], name: str, choices: Any, where: str) -> None:
    """Raise ValueError naming the first value that this field of `model` cannot have."""
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
