"""The preprocessing as lines of numpy: what they make of pictures is what the networks are tuned with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import quantize_images
from edgesearch.board_eval.runner import _run_on_board as program
from edgesearch.objectives.data import Normalisation, prepare
from edgesearch.search.export._preprocessing import numpy_lines


def run_lines(lines: str, pictures: npt.NDArray[np.uint8], expected: npt.NDArray[np.int8], folder: Path) -> dict[str, Any]:
    np.save(folder / "golden_pictures.npy", pictures)
    np.save(folder / "golden_input.npy", expected)
    names: dict[str, Any] = {}
    exec(compile(lines, "README.md", "exec"), names)
    return names


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from([(8, 8), (12, 9), (7, 31), (40, 33)]),
    size=st.sampled_from([8, 12, 16, 31]),
    colours=st.sampled_from([1, 3]),
    mean=st.floats(0, 1),
    std=st.floats(0.05, 1),
    fix=st.integers(-1, 8),
)
def test_the_lines_and_the_program_make_what_the_networks_are_tuned_with(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shape: tuple[int, int],
    size: int,
    colours: int,
    mean: float,
    std: float,
    fix: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(size).integers(0, 256, (3, *shape, colours)).astype(np.uint8)
    normalisation = Normalisation((mean,) * colours, tuple(std * (1 + c) for c in range(colours)))
    expected = quantize_images(prepare(pictures, size, normalisation), fix)
    entry = {
        "shape": [size, size, colours],
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "fix_position": fix,
    }
    assert np.array_equal(program.prepare(pictures, {"input": entry}), expected)
    lines = numpy_lines(entry, pictures.shape)
    names = run_lines(lines, pictures, expected, tmp_path)
    assert names["x"].dtype == np.int8
    assert np.array_equal(names["x"], expected)
    with pytest.raises(AssertionError):  # the lines say so where they make something else
        run_lines(lines, pictures, np.where(expected == 1, 2, 1).astype(np.int8), tmp_path)


def test_pictures_of_the_inputs_own_size_need_ten_lines() -> None:
    entry = {"shape": [8, 8, 1], "mean": [0.5], "std": [0.5], "fix_position": 6}
    lines = numpy_lines(entry, (8, 8, 8, 1))
    assert len(lines.splitlines()) <= 10
    assert "resize" not in lines
