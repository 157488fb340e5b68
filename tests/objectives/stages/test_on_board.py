"""The stage that a real board runs: its key, and what it makes of the board's logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.board_eval import BoardPool, BoardReference, find_board
from edgesearch.board_eval.targets import DEFAULT_TARGET
from edgesearch.errors import BoardError
from edgesearch.objectives import Conditions, DataSettings, Pipeline, Stage, load_data, needs_board, plan
from edgesearch.spaces import Candidate, Quantization, Student

DATA = DataSettings(name="digits", train_images=60, validation_images=40, calibration_images=20)
CANDIDATE = Candidate(student=Student(architecture="mlp", input_size=8))


def stage(last: str = "on_board", *, pool: BoardPool | None, images: int = 1000, board: str = "zcu104") -> Stage:
    pipeline = Pipeline(data=DATA)
    return plan(CANDIDATE, pipeline, conditions(pool, images, board), last=last)


def conditions(pool: BoardPool | None, images: int = 1000, board: str = "zcu104") -> Conditions:
    return Conditions.of(load_data(DATA), Pipeline(data=DATA), find_board(board), pool=pool, board_images=images)


def pool(name: str = "lab", *members: str, runner: str = "auto") -> BoardPool:
    return BoardPool(name, tuple(BoardReference(member) for member in members or ("a",)), DEFAULT_TARGET, runner)


def test_the_key_is_of_the_pool_its_runner_and_the_images_and_not_of_the_member_that_serves() -> None:
    key = stage(pool=pool()).key
    assert stage(pool=pool("lab", "b", "c")).key == key
    others = [stage(pool=pool("other")), stage(pool=pool(runner="cpp")), stage(pool=pool(), images=100)]
    assert len({key, *(other.key for other in others)}) == 4


def test_another_profile_of_the_simulated_board_measures_nothing_again() -> None:
    assert stage(pool=pool(), board="kv260").key == stage(pool=pool()).key


def test_what_is_simulated_has_the_keys_that_it_had_without_boards() -> None:
    with_boards, without = stage("measured", pool=pool()), stage("measured", pool=None)
    assert with_boards.key == without.key
    assert [needs_board(one) for one in stage(pool=pool()).walk()] == [False] * 3 + [True]


def test_what_no_board_runs_is_not_measured() -> None:
    analysis = CANDIDATE.model_copy(update={"quantization": Quantization(bits=5)})
    assert conditions(pool()).measures(CANDIDATE)
    assert not conditions(pool()).measures(analysis)
    assert not conditions(None).measures(CANDIDATE)


def test_without_a_board_the_stage_says_what_to_do(tmp_path: Path) -> None:
    from edgesearch.objectives.stages._context import Context
    from edgesearch.objectives.stages._store import Store
    from edgesearch.objectives.stages.kinds._on_board import SPEC

    one = stage(pool=pool())
    context = Context(one, SPEC.settings_of(one), Store(tmp_path), load_data(DATA), "cpu", print)
    with pytest.raises(BoardError, match="--board"):
        SPEC.run(context)
