from __future__ import annotations

import dataclasses

import pytest

from edgesearch.board_eval.compiler import compile_graph, legal
from edgesearch.board_eval.compiler._placement import Choices
from edgesearch.board_eval.compiler._search import best_schedule, scheduled
from edgesearch.board_eval.targets import DPUS, load_profile
from edgesearch.errors import CompileError

from .._networks import residual_net
from ._running import EVERYTHING, differing, extreme_network, faults, random_images, random_network

TARGET = DPUS["B4096"]
CONSTANTS = load_profile("zcu104").constants


def test_more_tries_are_never_slower() -> None:
    graph = legal(residual_net(24, (32, 48, 64)), TARGET)
    times = [best_schedule(graph, TARGET, CONSTANTS, tries=tries).cycles for tries in (0, 3, 10)]
    assert times == sorted(times, reverse=True)
    assert times[0] == scheduled(graph, TARGET, CONSTANTS).cycles


def test_no_time_is_no_try() -> None:
    graph = legal(residual_net(16, (16, 16, 16)), TARGET)
    assert best_schedule(graph, TARGET, CONSTANTS, tries=99, seconds=0.0).cycles == scheduled(graph, TARGET, CONSTANTS).cycles


@pytest.mark.parametrize("seed", range(12))
def test_a_schedule_that_was_searched_for_gives_the_same_integers(seed: int) -> None:
    graph = random_network(seed, largest=16) if seed % 2 else extreme_network(11 * seed + (6 if seed % 4 else 7))
    target = list(DPUS.values())[seed % len(DPUS)]
    try:
        compiled = compile_graph(graph, target, dataclasses.replace(EVERYTHING, tries=6))
    except CompileError:
        pytest.skip("does not fit")
    assert faults(compiled) == ()
    assert differing(compiled, random_images(graph, 1, seed), seed) == 0


def test_choices_move_feature_maps_and_cuts() -> None:
    graph = legal(residual_net(24, (16, 32, 32)), TARGET)
    plain = scheduled(graph, TARGET, CONSTANTS)
    inside = next(one for one in plain.plan.layers if one.output.external is None)
    outside = scheduled(graph, TARGET, CONSTANTS, Choices(outside=frozenset([inside.output.name])))
    assert inside.output.name in outside.plan.external
    name = inside.layer.name
    cut = scheduled(graph, TARGET, CONSTANTS, Choices(passed=((name, 4),)))
    (other,) = (one for one in cut.plan.layers if one.layer.name == name)
    assert (len(other.tiles), len(other.blocks)) >= (len(inside.tiles), len(inside.blocks))
