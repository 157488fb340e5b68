"""What a job left is read as what a stranger wrote."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.errors import EdgesearchError, ToolchainError, ToolchainMissing
from edgesearch.objectives.vitis import ModelSource, Results
from edgesearch.objectives.vitis._results import FORMAT

WEIGHTS = {"a.weight": np.ones((4, 3), np.float32), "a.num_batches_tracked": np.array(3)}
SOURCE = ModelSource("Net", "", (3, 8, 8), WEIGHTS)
RIGHT = {"format": FORMAT, "task": "ptq", "versions": {"torch": "1.13.1"}}


def read(folder: Path, content: Any = RIGHT) -> Results:
    (folder / "result.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Results.read(folder, "ptq", SOURCE)


def test_a_right_result_is_read(tmp_path: Path) -> None:
    results = read(tmp_path, RIGHT | {"scores": [0.5, 1], "frozen_parameters": 0})
    assert results.versions == {"torch": "1.13.1"}
    assert results.numbers("scores") == (0.5, 1.0)
    assert results.count("frozen_parameters") == 0


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": 2}', "[" * 100_000, json.dumps(RIGHT | {"task": "qat"})]
    + [json.dumps(RIGHT | {"format": other}) for other in (FORMAT - 1, FORMAT + 1, None)]
    + [json.dumps(RIGHT | {"versions": versions}) for versions in (None, [], {str(i): "" for i in range(30)})],
)
def test_what_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="its results are none"):
        read(tmp_path, content)


@pytest.mark.parametrize("values", [None, "1", [1, "2"], [float("nan")], [float("inf")], [True], [1] * 100_001])
def test_numbers_are_finite_and_few(values: Any, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError):
        read(tmp_path, RIGHT | {"scores": values}).numbers("scores")


@pytest.mark.parametrize("value", [None, -1, 1.5, True, "3"])
def test_a_count_is_a_whole_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError):
        read(tmp_path, RIGHT | {"frozen_parameters": value}).count("frozen_parameters")


def test_packages_that_are_missing_are_told_apart_from_a_network_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainMissing, match="has no pruner"):
        read(tmp_path, RIGHT | {"missing": "this pytorch_nndct has no pruner"})
    with pytest.raises(ToolchainError) as caught:
        read(tmp_path, RIGHT | {"refused": "no channel was removed"})
    assert not isinstance(caught.value, ToolchainMissing)


def test_a_refusal_is_one_printable_sentence(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        read(tmp_path, RIGHT | {"refused": "no\n\x1b[31m pruner" + "x" * 10_000})
    assert str(caught.value).startswith("no  [31m pruner")
    assert len(str(caught.value)) <= 500


def test_files_are_files_of_the_job_and_not_too_large(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(RIGHT))
    folder = tmp_path / "job"
    folder.mkdir()
    os.symlink(outside, folder / "result.json")
    with pytest.raises(ToolchainError, match="no file"):
        Results.read(folder, "ptq", SOURCE)
    (folder / "result.json").unlink()
    os.mkfifo(folder / "result.json")
    with pytest.raises(ToolchainError, match="no file"):
        Results.read(folder, "ptq", SOURCE)
    (folder / "result.json").unlink()
    with pytest.raises(ToolchainError, match="there is no"):
        Results.read(folder, "ptq", SOURCE)
    (folder / "result.json").write_text(" " * (2 << 20))
    with pytest.raises(ToolchainError, match="more than"):
        Results.read(folder, "ptq", SOURCE)


def tensors(folder: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    np.savez(folder / "pruned.npz", **arrays)
    return read(folder).tensors("pruned")


def test_tensors_are_the_networks_and_may_be_smaller(tmp_path: Path) -> None:
    found = tensors(tmp_path, {"a.weight": np.full((2, 3), 2, np.float32)})
    assert list(found) == ["a.weight"]
    assert found["a.weight"].shape == (2, 3)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"a.weight": np.ones((2, 3), np.float32), "b": np.ones(1, np.float32)},
        {"a.weight": np.ones((2, 3))},
        {"a.weight": np.ones(6, np.float32)},
        {"a.weight": np.full((2, 3), np.nan, np.float32)},
        {"a.weight": np.ones((4000, 3), np.float32)},
        {"a.weight": np.array([["x"]])},
        {"a.weight": np.array([{"an": "object"}], dtype=object)},
    ],
)
def test_other_tensors_are_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ToolchainError):
        tensors(tmp_path, arrays)


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.zeros((40_000, 1000), np.float32))
    with zipfile.ZipFile(tmp_path / "pruned.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.weight.npy", content.getvalue())
    assert (tmp_path / "pruned.npz").stat().st_size < 1 << 20
    with pytest.raises(ToolchainError, match="larger than the network's"):
        read(tmp_path).tensors("pruned")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_errors_of_the_tool(data: st.DataObject, tmp_path: Path) -> None:
    np.savez(tmp_path / "pruned.npz", **WEIGHTS)  # type: ignore[arg-type]
    content = bytearray((tmp_path / "pruned.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "pruned.npz").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(ToolchainError):
        read(tmp_path).tensors("pruned")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from([*RIGHT, "refused", "missing", "scores", "xmodel"]), inner)
        ),
    )
)
def test_any_json_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    for whole in (content, RIGHT | content if isinstance(content, dict) else RIGHT | {"scores": content, "xmodel": content}):
        with contextlib.suppress(EdgesearchError):
            results = read(tmp_path, whole)
            results.numbers("scores")
            results.xmodel()
