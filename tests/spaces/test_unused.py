"""Choices that no candidate of a space has are told; those that one has are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.spaces import Space, unused_choices


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
    ],
)
def test_what_decides_nothing_is_named_once(choices: dict[str, Any], told: list[str]) -> None:
    found = unused_choices(Space.model_validate(choices))
    assert len(found) == len(told)
    assert all(sentence.startswith(words) for sentence, words in zip(found, told, strict=True))


#: Of each choice one other value than its default.
OTHER = {
    "temperature": 2.0,
    "alpha": 0.25,
    "beta": 0.25,
    "gamma": 2.0,
    "nkd_temperature": 2.0,
    "ratio": 0.25,
    "pruning_target": "fps",
    "steps": 2,
    "pattern": "1:4",
    "qat_start": "scratch",
    "fast_finetune": True,
}


class First:
    """Takes the first of all values."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return low


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(OTHER)),
    st.sampled_from(["none", "logit", "self", "intermediate", "nkd"]),
    st.sampled_from(["none", "one_step", "iterative", "n_m"]),
    st.sampled_from(["ptq", "qat"]),
    st.sampled_from(["edgesearch", "nndct"]),
)
def test_a_choice_that_is_told_makes_no_other_candidate(
    name: str, distillation: str, pruning: str, quantization: str, backend: str
) -> None:
    choices: dict[str, Any] = {"distillation": [distillation], "pruning": [pruning], "quantization_backend": [backend]}
    space = Space.model_validate({**choices, "quantization": [quantization]})
    other = Space.model_validate({**choices, "quantization": [quantization], name: [OTHER[name]]})
    if unused_choices(other):
        assert other.suggest(First()) == space.suggest(First())
