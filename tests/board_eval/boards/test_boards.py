from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.boards._boards import Board, SimulatedBoard
from edgesearch.board_eval.graph._graph import Graph, Input, Linear, Reshape
from edgesearch.board_eval.targets import load_profile
from edgesearch.errors import BoardError


def mlp() -> Graph:
    return Graph(
        "mlp",
        (
            Input(name="image", inputs=(), shape=(28, 28, 1)),
            Reshape(name="flat", inputs=("image",), shape=(784,)),
            Linear(name="hidden", inputs=("flat",), shape=(64,), activation="relu"),
            Linear(name="logits", inputs=("hidden",), shape=(10,)),
        ),
    )


def test_a_simulated_board_is_a_board_and_measures_speed_without_images() -> None:
    board = SimulatedBoard(load_profile("zcu104"))
    assert isinstance(board, Board)
    measurement = board.measure(mlp())
    assert measurement.accuracy is None
    assert measurement.power_w is None
    assert measurement.latency_fps == pytest.approx(1 / measurement.latency_s)
    assert measurement.throughput_fps > measurement.latency_fps
    assert measurement.conditions["board"] == "zcu104"
    assert measurement.conditions["measured"] == "simulated"


def test_the_cpp_runner_costs_less_host_time_on_a_small_image() -> None:
    profile = load_profile("zcu104")
    assert SimulatedBoard(profile, runner="cpp").measure(mlp()).latency_s < SimulatedBoard(profile).measure(mlp()).latency_s


def test_accuracy_needs_labels_and_a_quantized_network() -> None:
    board = SimulatedBoard(load_profile("zcu104"))
    images = np.zeros((2, 28, 28, 1), np.float32)
    with pytest.raises(BoardError, match="both images and labels"):
        board.measure(mlp(), images)
    with pytest.raises(BoardError, match="2 images, 3 labels"):
        board.measure(mlp(), images, np.zeros(3, np.int64))
    with pytest.raises(BoardError, match="not quantized"):
        board.measure(mlp(), images, np.zeros(2, np.int64))


def test_an_xmodel_is_measured_with_its_images(reference_data: Path) -> None:
    folder = reference_data / "golden" / "resnet20"
    images = (np.load(folder / "images_u8_0_19.npy").astype(np.float32) / 255 - 0.5) / 0.5
    logits = np.load(folder / "logits_0_19.npy")
    labels = np.load(folder / "labels_0_19.npy")
    measurement = SimulatedBoard(load_profile("zcu104")).measure(folder / "ResNet20_int.xmodel", images, labels)
    assert measurement.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert measurement.conditions["images"] == "20"
    assert measurement.throughput_fps > measurement.latency_fps > 100
