"""Settings made in Python are refused in one sentence of the library's own."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgesearch.board_eval import BoardProfile, Dpu, VitisSettings, load_profile
from edgesearch.board_eval.remote import BoardSettings
from edgesearch.errors import SettingsError, SpaceError
from edgesearch.objectives import DataSettings, Recipe
from edgesearch.search import StudyFile
from edgesearch.spaces import Candidate, Pruning, Range, Space, Student


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Student(architecture="nope"), "Student: unknown student 'nope'"),
        (lambda: Student(architecture="mlp", input_size=2), "Student: input_size = 2, expected greater than or equal to 4"),
        (lambda: Candidate(student={"architecture": "mlp", "width": -1}), "Candidate: student.width = -1, expected greater"),
        (lambda: Space(students=("mlp",), width=(-1.0,)), "Space: width = -1.0, expected greater than 0"),
        (lambda: Space(students=("nope",)), "Space: students: unknown student 'nope'"),
        (
            lambda: Student(architecture="my:Net", parameters={"widths": [16, 32], "depth": 2}),
            "Student: parameters.widths = [16, 32], expected a number, a truth value or a text; give several values",
        ),
        (
            lambda: Candidate(student={"architecture": "my:Net", "parameters": {"a": {}}}),
            "Candidate: student.parameters.a = {}, expected a number, a truth value or a text",
        ),
        (lambda: Pruning(metod="one_step"), "Pruning: unknown key metod = 'one_step'"),
        (lambda: Recipe(epochs=-1), "Recipe: epochs = -1"),
        (lambda: Recipe(epochs=10**20), "Recipe: epochs = 100000000000000000000"),
        (lambda: Recipe(epochs=True), "Recipe: `epochs` is true, expected a number"),
        (lambda: Recipe(lr=True), "Recipe: `lr` is true, expected a number"),
        (lambda: Recipe(epochs="1"), "Recipe: `epochs` is '1', expected a number without quotes"),
        (lambda: Recipe(whitened="yes"), "Recipe: `whitened` is 'yes', expected true or false without quotes"),
        (lambda: Recipe(whitened=1), "Recipe: `whitened` is 1, expected true or false"),
        (lambda: Space(width=("0.5",)), "Space: `width` is '0.5', expected a number without quotes"),
        (lambda: DataSettings(validation_images=False), "DataSettings: `validation_images` is false, expected a number"),
        (lambda: Pruning(method="one_step", ratio=True), "Pruning: `ratio` is true, expected a number"),
        (lambda: Recipe(clip_norm=math.inf), "Recipe: clip_norm = "),
        (lambda: Range(low=0.0, high=math.nan), "Range: high = "),
        (lambda: Student(architecture="mlp", width=math.inf), "Student: width = "),
        (lambda: DataSettings(train_images=0), "DataSettings: train_images = 0"),
        (lambda: StudyFile(name="x y", space=Space()), "StudyFile: name = 'x y', expected letters"),
        (
            lambda: Dpu(name="mine", pixel_parallel=0, input_parallel=16, output_parallel=16),
            "Dpu: pixel_parallel = 0, expected",
        ),
        (lambda: Dpu(name="mine"), "Dpu: pixel_parallel is missing"),
        (lambda: BoardProfile(**load_profile("zcu104").model_dump() | {"cores": 0}), "BoardProfile: cores = 0, expected"),
        (lambda: VitisSettings(image="-v/:/host"), "VitisSettings: image = '-v/:/host', expected"),
        (lambda: BoardSettings(name="a", host="b c", key=Path("k")), "BoardSettings: host: "),
    ],
)
def test_a_constructor_says_what_is_wrong(make: Callable[[], object], said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("expected") <= 1
    assert isinstance(caught.value, ValueError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), SettingsError)


def test_what_pydantic_reads_is_refused_as_pydantic_does() -> None:
    with pytest.raises(ValidationError) as caught:
        Candidate.model_validate({"student": {"architecture": "nope"}})
    assert [problem["loc"] for problem in caught.value.errors()] == [("student",)]
