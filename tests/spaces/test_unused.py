"""Choices that no candidate of a space has are told; those that one has are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.spaces import Candidate, Space, unused_choices


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({}, []),
        ({"distillation": ["nkd"], "temperature": [1, 2], "alpha": [0.1]}, ["`temperature`, `alpha` in [space]"]),
        ({"distillation": ["nkd", "self"], "temperature": [1, 2]}, []),
        ({"ratio": [0.5]}, ["`ratio` in [space] decides nothing, since no choice of `pruning` = ['none'] has it"]),
        ({"ratio": [0.5], "pruning": ["none", "one_step"], "steps": [2], "pattern": ["1:4"]}, ["`steps`, `pattern`"]),
        ({"pruning": ["iterative", "n_m"], "steps": [2], "pattern": ["1:4"]}, []),
        ({"pruning": ["my.pruner:Own"], "steps": [2]}, []),
        ({"qat_start": ["scratch"], "fast_finetune": [True]}, ["`qat_start`", "`fast_finetune`"]),
        ({"quantization": ["ptq", "qat"], "qat_start": ["scratch"]}, []),
        ({"quantization_backend": ["nndct"], "fast_finetune": [True]}, []),
        ({"stem": ["imagenet"], "head": 64}, ["`stem`, `head` in [space] decides nothing, since no choice of `students`"]),
        ({"students": ["cnn_tiny", "resnet18"], "stem": ["imagenet"]}, []),
        ({"students": ["resnet20", "vgg_small"], "head": 64}, []),
        ({"adapt": True}, ["`adapt` in [space] decides nothing, since no student has `weights`"]),
        ({"students": ["staged"], "width": [0.5]}, ["`width` in [space]"]),
        (
            {"width": [0.5], "student": {"cnn_tiny": {"width": [0.25]}}},
            ["`width` in [space] decides nothing, since each student has its own in [space.student]"],
        ),
        ({"granularity": [4, 8]}, ["`granularity` in [space] decides nothing, since no choice of `pruning`"]),
        ({"pruning": ["n_m"], "ratio": [0.9], "granularity": [4, 8]}, ["`ratio`, `granularity` in [space]"]),
        ({"pruning": ["unstructured"], "pruning_target": ["fps"]}, ["`pruning_target` in [space]"]),
        (
            {"pruning": ["one_step"], "ratio": [0.0]},
            ["no candidate of [space] has `pruning` 'one_step', since no"],
        ),
        (
            {"bits": [16], "quantization": ["qat"]},
            ["`quantization` in [space] decides nothing, since no choice of `bits`"],
        ),
        ({"bits": [16], "algorithm": ["vitis"]}, ["`algorithm` in [space] decides nothing, since no choice of `bits` = [16]"]),
        ({"bits": [5], "quantization_backend": ["nndct"]}, ["`quantization_backend` in [space]"]),
        (
            {"bits": [8, 16], "quantization": ["qat"]},
            ["`bits` 16 of [space] knows ptq only: its candidates are"],
        ),
        ({"bits": [8, 16], "quantization": ["ptq", "qat"]}, []),
        (
            {"pruning": ["unstructured"], "quantization": ["qat"]},
            ["`quantization` in [space] decides nothing, since"],
        ),
        (
            {"pruning": ["one_step"], "quantization": ["qat"], "qat_start": ["scratch"]},
            ["`qat_start` in [space] decides nothing, since no choice of `pruning` = ['one_step'] has it"],
        ),
        (
            {"quantization": ["qat"], "qat_start": ["scratch"], "algorithm": ["vitis"]},
            ["no candidate of [space] has `algorithm` 'vitis', since no choice of `qat_start` = ['scratch'] goes with it"],
        ),
        (
            {"distillation": ["self"], "alpha": [1.0], "temperature": [2, 4]},
            ["`temperature` in [space] decides nothing"],
        ),
        (
            {"algorithm": ["best", "per_channel"], "quantization": ["qat"]},
            ["`algorithm` 'per_channel' of [space] knows"],
        ),
    ],
)
def test_what_decides_nothing_is_named_once(choices: dict[str, Any], told: list[str]) -> None:
    found = unused_choices(Space.model_validate(choices))
    assert len(found) == len(told)
    assert all(sentence.startswith(words) for sentence, words in zip(found, told, strict=True))


class Way:
    """Answers with the choices at `places`, and with the first ones behind them."""

    def __init__(self, places: list[int]) -> None:
        self.places, self.sizes = places, list[int]()

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.sizes.append(len(choices))
        self.places += [0] * (len(self.sizes) - len(self.places))
        return choices[self.places[len(self.sizes) - 1]]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        raise AssertionError("lists alone")


def every_candidate(space: Space) -> Iterator[Candidate]:
    """The slow reference: all candidates, one after the other."""
    places: list[int] | None = []
    while places is not None:
        way = Way(places)
        yield space.suggest(way)
        more = [depth for depth, size in enumerate(way.sizes) if way.places[depth] + 1 < size]
        places = [*way.places[: more[-1]], way.places[more[-1]] + 1] if more else None


#: Of each setting some values.
CHOICES: dict[str, tuple[Any, ...]] = {
    "distillation": ("none", "logit", "self", "intermediate", "nkd"),
    "temperature": (4.0, 2.0),
    "alpha": (0.25, 1.0),
    "gamma": (1.5, 0.0),
    "nkd_temperature": (2.0, 1.0),
    "pruning": ("none", "one_step", "iterative", "unstructured", "n_m"),
    "ratio": (0.0, 0.25),
    "pruning_target": ("macs", "fps"),
    "pruning_backend": ("edgesearch", "vai"),
    "granularity": (4, 8),
    "steps": (2, 3),
    "pattern": ("1:4", "2:4"),
    "quantization": ("ptq", "qat"),
    "bits": (5, 8, 16),
    "algorithm": ("best", "vitis", "per_channel"),
    "qat_start": ("trained", "scratch"),
    "quantization_backend": ("edgesearch", "nndct"),
    "fast_finetune": (False, True),
}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.sets(st.sampled_from(sorted(CHOICES)), max_size=7))
    return Space.model_validate(
        {name: draw(st.lists(st.sampled_from(CHOICES[name]), min_size=1, max_size=2, unique=True)) for name in sorted(names)}
        | ({} if "ratio" in names else {"ratio": [0.5]})
    )


@settings(deadline=None, max_examples=150)
@given(spaces(), st.data())
def test_what_is_told_decides_nothing_and_what_is_not_told_does(space: Space, data: st.DataObject) -> None:
    candidates = {each.key for each in every_candidate(space)}
    told = " ".join(unused_choices(space))
    given = [name for name in CHOICES if getattr(space, name) != Space.model_fields[name].default and name != "ratio"]
    given = [name for name in given if name != "granularity" or len(space.granularity or ()) > 1]  # one may be filled in
    for name in given:
        values = getattr(space, name)
        without = {each.key for each in every_candidate(space.model_copy(update={name: Space.model_fields[name].default}))}
        if f"`{name}` in [space] decides nothing" in told or f"`{name}`, " in told:
            assert without == candidates
        elif len(values) == 2 and f"`{name}` {values[1]!r}" not in told and f"`{name}` {values[0]!r}" not in told:
            each = [{one.key for one in every_candidate(space.model_copy(update={name: (value,)}))} for value in values]
            assert each[0] != each[1]
