"""AMD's golden xmodel that every checkout has: the reader, the writer and the execution, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesearch.board_eval.execution import Executor, execute, execute_all
from edgesearch.board_eval.execution import _execute as module
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.xmodel import read_xmodel, write_xmodel

TINY = Path(__file__).parents[2] / "golden" / "tiny"


@pytest.fixture
def graph() -> Graph:
    return read_xmodel(TINY / "tiny.xmodel")


@pytest.fixture
def images() -> np.ndarray:
    return np.load(TINY / "input_0_3.npy")


def test_every_fix_tensor_is_amds(graph: Graph, images: np.ndarray) -> None:
    expected = dict(np.load(TINY / "fix_tensors_image0.npz"))
    found = execute_all(graph, images[:1])
    compared = 0
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].reshape(values.shape), values, err_msg=name)
        compared += values.size
    assert compared > 10_000


def test_logits_are_amds(graph: Graph, images: np.ndarray) -> None:
    expected = np.load(TINY / "logits_0_3.npy")
    np.testing.assert_array_equal(execute(graph, images).reshape(expected.shape), expected)


def test_what_is_written_is_read_as_it_was(graph: Graph, images: np.ndarray, tmp_path: Path) -> None:
    write_xmodel(graph, tmp_path / "again.xmodel")
    again = read_xmodel(tmp_path / "again.xmodel")
    for a, b in zip(graph, again, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    np.testing.assert_array_equal(execute(again, images), execute(graph, images))


def test_float64_computes_the_integers_of_float32(graph: Graph, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Executor(graph).fix_tensors(images)
    monkeypatch.setattr(module, "_EXACT", {torch.float32: 0, torch.float64: 2**53})  # nothing is exact in float32
    found = Executor(graph).fix_tensors(images)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
