"""The preprocessing as lines of numpy: what they make of pictures is what the networks are tuned with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval import quantize_images
from edgesearch.board_eval.runner import _run_on_board as program
from edgesearch.objectives.data import DataSettings, Normalisation, load_data, prepare
from edgesearch.search.export._preprocessing import describe_input, numpy_lines


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


@pytest.mark.parametrize(
    ("name", "image_size", "first", "step"),
    [
        ("npz", None, {"crop": None, "first_resize": None}, "Pillow's resize to the input's"),
        ("npz", 16, {"crop": None, "first_resize": None}, "Pillow's resize to the input's"),
        ("npz", 24, {"crop": None, "first_resize": [24, 24]}, "Pillow's resize to the shape of first_resize, without cropping"),
        ("folder", 24, {"crop": [24, 24], "first_resize": None}, "the largest square"),
    ],
)
def test_what_comes_before_the_resize_to_the_input_is_told(
    name: str, image_size: int | None, first: dict[str, list[int] | None], step: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=np.arange(60) % 2)
    data = load_data(DataSettings(name="npz", root=tmp_path / "data.npz", image_size=image_size))
    settings: Any = SimpleNamespace(data=SimpleNamespace(name=name, image_size=image_size))
    graph: Any = SimpleNamespace(input=SimpleNamespace(shape=(16, 16, 1), fix=6), bits=8)
    entry = describe_input(settings, graph, data)
    assert {key: entry[key] and entry[key]["shape"] for key in first} == first
    assert entry["prepare"][0].startswith(step)
    expected = quantize_images(prepare(data.test.images, 16, data.normalisation), 6)
    assert np.array_equal(program.prepare(data.test.images, {"input": entry}), expected)


@pytest.mark.parametrize(("bits", "fix", "span"), [(8, 6, [-128, 127]), (5, 3, [-16, 15]), (16, None, None)])
def test_integers_have_the_range_of_their_bits_and_floats_have_none(bits: int, fix: int | None, span: list[int] | None) -> None:
    data = load_data(DataSettings(name="digits"))
    settings: Any = SimpleNamespace(data=SimpleNamespace(name="digits", image_size=None))
    graph: Any = SimpleNamespace(input=SimpleNamespace(shape=(8, 8, 1), fix=fix), bits=bits)
    entry = describe_input(settings, graph, data)
    assert entry["range"] == span
    assert ("quantize" in entry["prepare"]) == (span is not None)
    if span is None:
        assert entry["quantize"] is entry["rounding"] is None
    else:
        assert f"+ 0.5), {span[0]}, {span[1]})" in entry["quantize"]
