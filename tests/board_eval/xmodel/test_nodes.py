from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Graph, Input, Node
from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing import time_graph
from edgesearch.board_eval.xmodel import read_xmodel, write_xmodel
from edgesearch.board_eval.xmodel._wire import graph_message

from .test_xmodel import assert_same

SHAPE = (6, 6, 4)


def image() -> Input:
    return Input(name="in", inputs=(), shape=SHAPE, fix=3, op_names=("in",))


def norm(**fields: Any) -> Depthwise:
    return Depthwise(
        **{"name": "bn", "inputs": ("in",), "shape": SHAPE, "fix": 3, "weight_fix": 5, "kernel": (1, 1), "has_bias": False},
        weight=np.ones((1, 1, 4), np.float32),
        op_names=("gamma", "bn"),
        **fields,
    )


def nodes_in(path: Path) -> int:
    message = graph_message()()
    message.ParseFromString(path.read_bytes())
    return len(message.subg_root.edgesearch_node)


def test_what_operations_do_not_say_survives_a_round_trip(tmp_path: Path) -> None:
    """A batch-norm that could not be folded, and a ReLU6 that pytorch_nndct keeps."""
    clip: dict[str, Any] = {"shape": SHAPE, "fix": 3, "activation": "relu6", "keeps_clip": True}
    weight = {"weight": np.ones((4, 1, 1, 4), np.float32), "weight_fix": 5, "has_bias": False, "kernel": (1, 1)}
    nodes: tuple[Node, ...] = (
        image(),
        norm(scale=True),
        Conv(name="conv", inputs=("bn",), **clip, **weight),
        Add(name="add", inputs=("bn", "conv"), **clip),
        Activation(name="clip", inputs=("in",), **clip),
        Add(name="sum", inputs=("add", "clip"), shape=SHAPE, fix=3, activation="relu6"),
    )
    write_xmodel(Graph("Marked", nodes), tmp_path / "a.xmodel")
    assert_same(Graph("Marked", nodes), read_xmodel(tmp_path / "a.xmodel"))


def test_a_network_with_a_batch_norm_takes_as_long_as_before_it_was_written(tmp_path: Path) -> None:
    graph, profile = Graph("Named", (image(), norm(scale=True))), load_profile("zcu104")
    write_xmodel(graph, tmp_path / "a.xmodel")
    again = read_xmodel(tmp_path / "a.xmodel")
    assert_same(graph, again)
    assert time_graph(again, profile).dpu_s == time_graph(graph, profile).dpu_s


def test_nothing_is_stored_where_the_operations_say_it_all(tmp_path: Path) -> None:
    write_xmodel(Graph("Plain", (image(), norm())), tmp_path / "plain.xmodel")
    write_xmodel(Graph("Marked", (image(), norm(scale=True))), tmp_path / "marked.xmodel")
    assert (nodes_in(tmp_path / "plain.xmodel"), nodes_in(tmp_path / "marked.xmodel")) == (0, 2)
