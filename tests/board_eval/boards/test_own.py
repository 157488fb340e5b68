"""Boards of a user's own: what they raise, and what they say or measure that no board can, is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import Board, find_board
from edgesearch.board_eval.boards import examine, measure_on, run_on
from edgesearch.board_eval.graph import Graph, Input
from edgesearch.errors import BoardError, PluginError

BOARDS = """
from edgesearch.board_eval import Measurement, find_target

class Bench:
    name, target, is_pure, resource, content = "bench", find_target("B4096"), True, "", {"a": 1}
    def measure(self, network, images=None, labels=None):
        return Measurement(latency_s=0.001, throughput_fps=1000.0)

class Target(Bench):
    target = "B4096"

class Content(Bench):
    content = {"a": object()}

class Listed(Bench):
    content = ["a"]

class Pure(Bench):
    is_pure = "yes"

class Broken(Bench):
    @property
    def target(self):
        raise ValueError("no cable")

class Raises(Bench):
    def measure(self, network, images=None, labels=None):
        raise ValueError("no cable")

class Nothing(Bench):
    def measure(self, network, images=None, labels=None):
        return {"fps": 3}

class Frozen(Bench):
    def measure(self, network, images=None, labels=None):
        return Measurement(latency_s=0.0, throughput_fps=1000.0)

class Unsure(Bench):
    def measure(self, network, images=None, labels=None):
        return Measurement(latency_s=0.1, throughput_fps=10.0, fps_error=1.0)

class Unknown(Bench):
    def measure(self, network, images=None, labels=None):
        return Measurement(latency_s=0.1, throughput_fps=10.0, latency_error=float("nan"))

class Powerful(Bench):
    def measure(self, network, images=None, labels=None):
        return Measurement(latency_s=0.1, throughput_fps=10.0, power_w=float("inf"))

class Runs(Bench):
    def run(self, xmodel, images, labels=None):
        raise ValueError("no cable")
    def probe(self):
        raise ValueError("no cable")

class RunsNothing(Runs):
    def run(self, xmodel, images, labels=None):
        return None
    def probe(self):
        return None
"""
GRAPH = Graph("empty", (Input(name="image", inputs=(), shape=(8, 8, 3), fix=6),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "boards_that_fail.py").write_text(BOARDS)
    return tmp_path


def found(name: str, folder: Path) -> Board:
    return find_board(f"boards_that_fail:{name}", folder=folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Target", r"target of board 'boards_that_fail:Target' is 'B4096'; expected a Target"),
        ("Content", "content of board 'boards_that_fail:Content' is nothing that JSON can hold"),
        ("Listed", "content of board 'boards_that_fail:Listed' is nothing that JSON can hold .it is a list."),
        ("Pure", "is_pure of board 'boards_that_fail:Pure' is 'yes'; expected a bool"),
        ("Broken", "board 'boards_that_fail:Broken' failed: ValueError: no cable"),
    ],
)
def test_what_no_board_says_of_itself_is_refused_when_it_is_found(folder: Path, name: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        found(name, folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", "board 'boards_that_fail:Raises' failed: ValueError: no cable"),
        ("Nothing", "board 'boards_that_fail:Nothing' measured a dict; expected an edgesearch.board_eval.Measurement"),
        ("Frozen", "board 'boards_that_fail:Frozen' measured latency_s = 0.0; expected a number above 0"),
        ("Unsure", "board 'boards_that_fail:Unsure' measured fps_error = 1.0; expected a share below 1, or None"),
        ("Unknown", "board 'boards_that_fail:Unknown' measured latency_error = nan; expected a share below 1, or None"),
        ("Powerful", "board 'boards_that_fail:Powerful' measured power_w = inf; expected a number from 0, or None"),
    ],
)
def test_a_measurement_that_fails_or_is_none_is_told_with_the_boards_import_path(folder: Path, name: str, words: str) -> None:
    with pytest.raises(BoardError, match=words):
        measure_on(found(name, folder), GRAPH)


def test_a_board_that_keeps_the_seam_is_measured_on(folder: Path) -> None:
    assert measure_on(found("Bench", folder), GRAPH).throughput_fps == 1000.0


@pytest.mark.parametrize(("name", "words"), [("Runs", "failed: ValueError: no cable"), ("RunsNothing", "NoneType")])
def test_a_run_that_fails_is_told_and_such_a_board_is_not_well(folder: Path, name: str, words: str) -> None:
    board = found(name, folder)
    with pytest.raises(BoardError, match=rf"board 'boards_that_fail:{name}' .*{words}"):
        run_on(board, folder / "none.xmodel", np.zeros((1, 8, 8, 3), np.int8))  # type: ignore[arg-type]
    problem = examine(board)  # type: ignore[arg-type]
    assert problem is not None
    assert problem.needs_hands
    assert words in str(problem)
