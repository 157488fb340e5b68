from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgesearch.board_eval.compiler import compile_graph
from edgesearch.board_eval.compiler._pairs import in_pairs
from edgesearch.board_eval.isa import Engine, Save
from edgesearch.board_eval.targets import DPUS

from ._running import EVERYTHING, faults, random_images, random_network, run

_OWN, _LOAD = 1 << Engine.SAVE, 1 << Engine.LOAD
PAIRS = dataclasses.replace(EVERYTHING, allow=EVERYTHING.allow | {"save_pairs"})


def bits(*fields: tuple[int, int]) -> list[Save]:
    return [Save(dpdon=on, dpdby=by) for on, by in fields]


def test_two_saves_without_tokens_between_them_are_a_pair() -> None:
    first, second, third = in_pairs(bits((_OWN | _LOAD, _OWN), (_OWN, _OWN | _LOAD), (_OWN, _OWN)))
    assert isinstance(first, Save)
    assert isinstance(second, Save)
    assert (first.dpdon, first.dpdby, first.hp_id) == (_OWN | _LOAD, 0, 0)
    assert (second.dpdon, second.dpdby, second.hp_id) == (0, _OWN | _LOAD, 1)
    assert third == Save(dpdon=_OWN, dpdby=_OWN)


@pytest.mark.parametrize("fields", [[(_OWN, _OWN | _LOAD), (_OWN, _OWN)], [(_OWN, _OWN), (_OWN | _LOAD, _OWN)]])
def test_a_token_between_two_saves_keeps_them_apart(fields: list[tuple[int, int]]) -> None:
    assert in_pairs(bits(*fields)) == bits(*fields)


@pytest.mark.parametrize("seed", range(16))
def test_pairs_change_nothing_but_how_saves_are_done(seed: int) -> None:
    graph, target = random_network(seed, largest=16), list(DPUS.values())[seed % len(DPUS)]
    plain, paired = (compile_graph(graph, target, options) for options in (EVERYTHING, PAIRS))
    assert faults(paired) == ()
    image = random_images(graph, 1, seed)[0]
    a, b = run(plain, image), run(paired, image)
    assert all(np.array_equal(a[register], b[register]) for register in a)
