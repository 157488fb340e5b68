"""A board behind a real sshd: the contract of boards, the comparison of integers, and what is refused before it is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import (
    Board,
    Graph,
    Measurement,
    PhysicalBoard,
    SshBoard,
    compile_xmodel,
    execute,
    find_board,
    write_xmodel,
)
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import BoardError, BoardLost, BoardUnfit, PluginError, QuantizationError, XmodelError
from edgesearch.testing import BoardContract, PhysicalBoardContract

from .._sshd import LoopbackBoard, loopback_board

GRAPH = BoardContract().network()
PIXELS = np.random.default_rng(0).uniform(-1.2, 1.2, (6, 8, 8, 3)).astype(np.float32)
LABELS = np.argmax(execute(GRAPH, PIXELS), axis=1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackBoard]:
    with loopback_board(tmp_path_factory.mktemp("lab")) as board:
        yield board


class TestSshBoard(BoardContract):
    """It keeps the contract of boards."""

    @pytest.fixture(autouse=True)
    def _lab(self, lab: LoopbackBoard) -> None:
        lab.knobs()
        self.lab = lab

    def make(self) -> Board:
        return SshBoard(self.lab.settings())


class TestSshBoardThatMeasures(PhysicalBoardContract):
    """It keeps the contract of boards that measure."""

    @pytest.fixture(autouse=True)
    def _lab(self, lab: LoopbackBoard) -> None:
        lab.knobs()
        self.lab = lab

    def make(self) -> PhysicalBoard:
        return SshBoard(self.lab.settings())


def test_a_measurement_says_how_it_was_made(lab: LoopbackBoard) -> None:
    lab.knobs()
    measurement = SshBoard(lab.settings()).measure(GRAPH, PIXELS, LABELS)
    assert (measurement.correct, measurement.images, measurement.power_w, measurement.fps_error) == (6, 6, None, None)
    told = measurement.conditions
    assert told["board"] == "lab"
    assert told["dpu"] == "2 x B4096 at 300 MHz"
    assert told["fingerprint"] == "0x101000056010407"
    assert told["integers"] == "equal to this program's integers on all 6 images"
    assert told["power"].startswith("not available")
    assert "repeats within" in told["latency"]
    assert "clock" not in told


def test_integers_that_differ_are_told_and_the_accuracy_is_the_boards(lab: LoopbackBoard) -> None:
    lab.knobs(error=1)
    measurement = SshBoard(lab.settings()).measure(GRAPH, PIXELS, LABELS)
    lab.knobs()
    # The stand-in's addition wraps around, as the commonest mistake of host programs does.
    told = measurement.conditions["integers"]
    assert told.startswith("differ from this program's integers on 6 of 6 images, by at most 255, and tell ")
    assert told.endswith(" another class: the simulated accuracy does not hold")
    assert measurement.correct is not None


def test_power_temperature_and_a_wrong_clock_are_told(lab: LoopbackBoard, tmp_path: Path) -> None:
    settings = lab.settings(python=lab.quick_runner())
    measurement = SshBoard(settings).measure(GRAPH)
    assert measurement.power_w == 12.5
    assert measurement.energy_j == pytest.approx(12.5 / 4000)
    told = measurement.conditions
    assert told["power"] == "12.5 W busy, 8 W idle, the difference 4.5 W (ina226)"
    assert told["temperature"] == "40 to 41 degrees Celsius"
    assert "behind this machine's" in told["clock"]
    assert "differ from this program's integers" in told["integers"]
    unsteady = lab.quick_runner("report['latency'].update(spread=0.3, settled=False)")
    measurement = SshBoard(lab.settings(python=unsteady)).measure(GRAPH)
    assert "5 repeats within 30.0%, not settled" in measurement.conditions["latency"]


def test_files_are_measured_as_they_are_and_uncompiled_ones_compiled(lab: LoopbackBoard, tmp_path: Path) -> None:
    lab.knobs()
    compiled, uncompiled = tmp_path / "compiled.xmodel", tmp_path / "plain.xmodel"
    compile_xmodel(GRAPH, DPUS["B4096"]).write(compiled)
    write_xmodel(GRAPH, uncompiled)
    board = SshBoard(lab.settings())
    given = [board.measure(path, PIXELS, LABELS) for path in (compiled, uncompiled)]
    assert [one.correct for one in given] == [6, 6]
    assert all(one.conditions["integers"] == "equal to this program's integers on all 6 images" for one in given)
    run = board.run(compiled, PIXELS)
    assert np.array_equal(run.logits, np.ldexp(execute(GRAPH, PIXELS), 2))
    with pytest.raises(XmodelError):
        board.run(uncompiled, PIXELS)


def _nothing_is_asked(board: SshBoard, xmodel: Path | Graph, images: np.ndarray | None = None) -> Measurement:
    return board.measure(xmodel, images, None if images is None else LABELS)


def test_what_is_wrong_is_refused_before_the_board_is_asked(lab: LoopbackBoard, tmp_path: Path) -> None:
    """The port answers nobody: whatever was sent there would be BoardLost."""
    board = SshBoard(lab.settings(port=1))
    other = tmp_path / "other.xmodel"
    compile_xmodel(GRAPH, DPUS["B3136"]).write(other)
    with pytest.raises(
        BoardError, match=r"fingerprint 0x\w+, board 'lab' has 0x101000056010407 \(size B4096, not B3136"
    ) as caught:
        _nothing_is_asked(board, other)
    assert type(caught.value) is BoardError
    for images, expected in (
        (PIXELS[:, :4], r"images have shape \(6, 4, 8, 3\), expected \(N, 8, 8, 3\)"),
        (PIXELS * np.nan, "have NaN"),
        (PIXELS.astype(np.float64), "are float64"),
    ):
        with pytest.raises(QuantizationError, match=expected):
            _nothing_is_asked(board, GRAPH, images)
    known = lab.root / "known_hosts"
    known.write_text(known.read_text() + known.read_text().replace(f":{lab.port} ", ":1 "))
    with pytest.raises(BoardLost, match="cannot be reached"):
        _nothing_is_asked(board, GRAPH)


def test_a_report_of_another_file_is_an_error(lab: LoopbackBoard) -> None:
    other = lab.quick_runner("report['xmodel']['sha256'] = 'f' * 64")
    with pytest.raises(BoardLost, match=r"ran network 'contract' with the checksum f+, expected"):
        SshBoard(lab.settings(python=other)).measure(GRAPH)
    shifted = lab.quick_runner("report['input']['fix_position'] = 3")
    with pytest.raises(BoardError, match="fix position of the input 3, expected 7"):
        SshBoard(lab.settings(python=shifted)).measure(GRAPH)


def test_a_board_that_is_not_what_the_boards_file_says_is_at_fault_and_not_the_network(lab: LoopbackBoard) -> None:
    board = SshBoard(lab.settings())
    lab.knobs(fingerprint="0x101000056010406")
    with pytest.raises(BoardUnfit, match=r"board 'lab', fingerprint: 0x101000056010406, its target 'zcu104' has 0x\w+"):
        board.measure(GRAPH)
    lab.knobs()
    bare = lab.program("bare", f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} "$@"\n')
    with pytest.raises(BoardUnfit, match=r"board 'lab', VART: .*use the Python of the board's image"):
        SshBoard(lab.settings(python=str(bare))).measure(GRAPH)
    refuses = lab.program("refuses", f'#!/bin/sh\n[ $2 = --probe ] && exec {sys.executable} "$@"\nexit 2\n')
    with pytest.raises(BoardError, match="refused the network") as caught:
        SshBoard(lab.settings(python=str(refuses))).measure(GRAPH)
    assert type(caught.value) is BoardError


def test_what_decides_results_tells_no_way_to_the_board(lab: LoopbackBoard) -> None:
    board = SshBoard(lab.settings(host="10.1.2.3", user="operator"))
    stored = json.dumps(dict(board.content))
    assert not any(word in stored for word in ("10.1.2.3", "operator", str(lab.root)))
    assert json.loads(stored) == dict(SshBoard(lab.settings(seconds=9)).content)
    assert json.loads(stored) != dict(SshBoard(lab.settings(name="other")).content)
    assert (board.resource, board.is_pure) == ("board:lab", False)


def test_a_board_is_found_by_its_name(lab: LoopbackBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(lab.boards_file("shelf")))
    board = find_board("shelf")
    assert isinstance(board, SshBoard)
    assert board.probe().board.dpu_cores == 2
    with pytest.raises(PluginError, match=r"unknown board 'shelf2'.*a board of .*boards.toml"):
        find_board("shelf2")
    (lab.root / "user_key").chmod(0o644)
    with pytest.raises(BoardError, match="run chmod 600"):
        find_board("shelf")
    (lab.root / "user_key").chmod(0o600)
