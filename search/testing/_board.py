"""What every Board must do."""

from __future__ import annotations

import json
import math
from datetime import datetime

import numpy as np
import pytest

from edgesearch.board_eval import Board, Conv, Graph, Input, Linear, Measurement, Pool, Reshape, Target, execute
from edgesearch.errors import BoardError, GraphError


class BoardContract:
    """Subclass it and override `make`; pytest collects the tests.

    A board that takes compiled files only overrides `network` too, with the path of one that has 10 classes.
    """

    def make(self) -> Board:
        """The board to test."""
        raise NotImplementedError("override `make` and return your Board")

    def network(self) -> Graph:
        """A small quantized network, 8 x 8 x 3 to 10 classes."""
        return _network()

    def measure(self, *, images: int = 0) -> Measurement:
        """The network measured, on that many images whose labels are what the DPU's integers say, the last one but wrong."""
        if not images:
            return self.make().measure(self.network())
        pixels, labels = self._images(images)
        return self.make().measure(self.network(), pixels, labels)

    def _images(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (count, *self.network().input.shape)
        pixels = np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)
        labels = np.argmax(execute(self.network(), pixels), axis=1)
        labels[-1] = (labels[-1] + 1) % 10
        return pixels, labels

    def test_it_is_a_board(self) -> None:
        """It has every attribute of the protocol, names itself and its DPU, and says what it occupies."""
        board = self.make()
        assert isinstance(board, Board)
        assert board.name
        assert isinstance(board.target, Target)
        assert isinstance(board.is_pure, bool)
        assert isinstance(board.resource, str)

    def test_what_decides_its_results_can_be_stored(self) -> None:
        """`content` is JSON, and the same for the same board made twice."""
        content = json.loads(json.dumps(dict(self.make().content)))
        assert content == dict(self.make().content)

    def test_speed_is_positive_and_latency_is_no_better_than_all_cores(self) -> None:
        """Figures are finite numbers; nothing is known of accuracy without images."""
        measurement = self.measure()
        assert all(math.isfinite(value) and value > 0 for value in measurement.figures().values())
        assert {"fps", "latency_ms", "latency_fps"} <= set(measurement.figures())
        assert (measurement.correct, measurement.images, measurement.accuracy) == (None, 0, None)

    def test_accuracy_is_that_of_the_integers(self) -> None:
        """A board gives the very classes that the DPU's arithmetic gives."""
        measurement = self.measure(images=5)
        assert (measurement.correct, measurement.images) == (4, 5)
        assert measurement.accuracy == 0.8

    def test_images_need_labels(self) -> None:
        """One for each; else BoardError."""
        pixels, labels = self._images(3)
        with pytest.raises(BoardError):
            self.make().measure(self.network(), pixels)
        with pytest.raises(BoardError):
            self.make().measure(self.network(), pixels, labels[:2])

    def test_a_network_beyond_the_dpu_is_refused(self) -> None:
        """With GraphError, whatever the board."""
        kernel = self.make().target.limits.conv_kernel + 1
        image = Input(name="image", inputs=(), shape=(kernel, kernel, 3), fix=6)
        conv = Conv(name="conv", inputs=("image",), shape=(1, 1, 8), kernel=(kernel, kernel))
        with pytest.raises(GraphError, match="conv"):
            self.make().measure(Graph("large", (image, conv)))

    def test_a_pure_board_repeats_itself_and_another_dates_its_measurements(self) -> None:
        """A pure result has no date; a measurement has one, with its zone, and holds the board while it is made."""
        if self.make().is_pure:
            assert self.measure(images=2) == self.measure(images=2)
            assert self.measure().measured_at is None
            return
        measured_at = self.measure().measured_at
        assert measured_at is not None
        assert datetime.fromisoformat(measured_at).tzinfo is not None
        assert self.make().resource

    def test_conditions_say_how_it_was_measured(self) -> None:
        """Words for a reader, not part of the result."""
        conditions = self.measure().conditions
        assert conditions
        assert all(isinstance(word, str) and word for pair in conditions.items() for word in pair)


def _network() -> Graph:
    random = np.random.default_rng(1)

    def values(*shape: int) -> np.ndarray:
        return (random.integers(-100, 100, shape) / 128).astype(np.float32)

    conv = Conv(
        name="conv", inputs=("image",), shape=(8, 8, 16), kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu",
        weight=values(16, 3, 3, 3), bias=values(16), weight_fix=7, bias_fix=7, fix=4,
    )  # fmt: skip
    logits = Linear(
        name="logits", inputs=("flat",), shape=(10,), weight=values(10, 256), bias=values(10), weight_fix=7, bias_fix=7, fix=2
    )
    return Graph(
        "contract",
        (
            Input(name="image", inputs=(), shape=(8, 8, 3), fix=7),
            conv,
            Pool(name="pool", inputs=("conv",), shape=(4, 4, 16), kind="max", kernel=(2, 2), stride=(2, 2), fix=4),
            Reshape(name="flat", inputs=("pool",), shape=(256,)),
            logits,
        ),
    )
