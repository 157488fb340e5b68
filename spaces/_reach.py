"""What of a space's choices its candidates read and have, found by making candidates of every kind that the space has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from edgesearch.spaces._candidate import Candidate, Distillation, Quantization, Student
from edgesearch.spaces._choices import Suggester, least, most, next_places
from edgesearch.spaces._pruning import Pruning
from edgesearch.spaces._space import Space

__all__ = ["FIELDS", "NUMBERS", "Reach", "reach"]

Part: TypeAlias = Distillation | Pruning | Quantization
T = TypeVar("T")

#: Settings of a space, each with the part of a candidate that they belong to and what that part calls them.
FIELDS: dict[str, tuple[type[Part], str]] = {
    "distillation": (Distillation, "kind"),
    **{name: (Distillation, name) for name in ("temperature", "alpha", "beta", "gamma", "nkd_temperature")},
    "pruning": (Pruning, "method"),
    "pruning_target": (Pruning, "target"),
    "pruning_backend": (Pruning, "backend"),
    **{name: (Pruning, name) for name in ("ratio", "granularity", "steps", "pattern")},
    "quantization": (Quantization, "method"),
    "qat_start": (Quantization, "start"),
    "quantization_backend": (Quantization, "backend"),
    **{name: (Quantization, name) for name in ("bits", "algorithm", "fast_finetune")},
}
#: Those that are numbers: what one of them decides, another one does.
NUMBERS = frozenset(("temperature", "alpha", "beta", "gamma", "nkd_temperature", "ratio", "granularity", "steps"))


@dataclass
class Reach:
    """asked: settings of the space that some candidate reads. had: for each setting, values that some candidate has.

    Of numbers, `had` looks at the least and the most that may be chosen.
    """

    asked: set[str] = field(default_factory=set)
    had: dict[str, set[Any]] = field(default_factory=lambda: {name: set() for name in FIELDS})


def reach(space: Space) -> Reach:
    """What candidates of the space read and have of the settings in FIELDS."""
    found, asking = Reach(), space.model_copy(update={name: _asked_for(space, name) for name in FIELDS})
    student, kinds = Student(architecture="cnn_tiny"), dict[tuple[bool, bool], Pruning]()
    for pruning in _ways(asking.suggest_pruning, found.asked):
        kinds.setdefault((pruning.removes, pruning.sparse), pruning)
        _keep(found.had, pruning.canonical())
    for distillation in _ways(asking.suggest_distillation, found.asked):
        _keep(found.had, distillation.canonical())
    for pruning in kinds.values():

        def quantization(trial: Suggester, pruning: Pruning = pruning) -> Quantization:
            return asking.suggest_quantization(trial, pruning)

        for each in _ways(quantization, found.asked):
            _keep(found.had, Candidate(student=student, pruning=pruning, quantization=each).canonical().quantization)
    return found


def _asked_for(space: Space, name: str) -> Any:
    """Choices of the setting, two at least, so that the space asks for one; of numbers the least and the most."""
    choices = getattr(space, name)
    if choices is None:
        return None
    return (least(choices), most(choices)) if name in NUMBERS else (*choices, choices[0])


def _keep(had: Mapping[str, set[Any]], part: Part) -> None:
    for name, (kind, called) in FIELDS.items():
        if isinstance(part, kind):
            had[name].add(getattr(part, called))


def _ways(draw: Callable[[Suggester], T], asked: set[str]) -> Iterator[T]:
    """All that `draw` makes of lists of choices; the names that it asks for go into `asked`."""
    way: _Way | None = _Way([], asked)
    while way is not None:
        yield draw(way)
        way = way.next()


class _Way:
    """Answers with the choices at `places`, and with the first ones behind them."""

    def __init__(self, places: list[int], asked: set[str]) -> None:
        self._places, self._asked, self._sizes = places, asked, list[int]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self._asked.add(name)
        place = len(self._sizes)
        self._sizes.append(len(choices))
        if place == len(self._places):
            self._places.append(0)
        return choices[self._places[place]]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        raise AssertionError(f"{name} is a list of its ends here")

    def next(self) -> _Way | None:
        """The way behind this one: the last choice that has another value takes it."""
        places = next_places(self._places, self._sizes)
        return None if places is None else _Way(places, self._asked)
