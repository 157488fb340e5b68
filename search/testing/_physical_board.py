"""What every board must do that measures: run compiled files, and say what it is."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgesearch.board_eval import BoardProbe, BoardRun, Graph, PhysicalBoard, compile_xmodel, execute
from edgesearch.errors import EdgesearchError
from edgesearch.testing._board import BoardContract

_IMAGES = 5


class PhysicalBoardContract:
    """Subclass it and override `make`; pytest collects the tests. `boards = ["my_pkg.module:Board"]` asks no more of a board.

    One that this program does not compile for overrides `xmodel` too, with the path of a compiled file of `network`.
    """

    def make(self) -> PhysicalBoard:
        """The board to test."""
        raise NotImplementedError("override `make` and return your PhysicalBoard")

    def network(self) -> Graph:
        """A small quantized network, 8 x 8 x 3 to 10 classes."""
        return BoardContract().network()

    def xmodel(self, folder: Path) -> Path:
        """The network as a file that the board runs."""
        path = folder / "network.xmodel"
        path.write_bytes(compile_xmodel(self.network(), self.make().target).content)
        return path

    @staticmethod
    def _images() -> npt.NDArray[np.int8]:
        return np.random.default_rng(0).integers(-128, 128, (_IMAGES, 8, 8, 3)).astype(np.int8)

    def _integers(self) -> npt.NDArray[np.float64]:
        """What the DPU's arithmetic makes of the images, as real numbers (images, classes)."""
        return execute(self.network(), self._images()).reshape(_IMAGES, -1).astype(np.float64)

    def _run(self, folder: Path, labels: npt.NDArray[np.integer] | None = None) -> BoardRun:
        return self.make().run(self.xmodel(folder), self._images(), labels)

    def test_it_is_a_board_that_measures(self) -> None:
        """It has `run` and `probe`, is not pure, and names what only one measurement at a time can have."""
        board = self.make()
        assert isinstance(board, PhysicalBoard)
        assert board.name
        assert not board.is_pure
        assert board.resource

    def test_what_decides_its_results_can_be_stored(self) -> None:
        """`content` is JSON, and the same for the same board made twice: measurements have it in their key."""
        content = json.loads(json.dumps(dict(self.make().content)))
        assert content == dict(self.make().content)

    def test_a_run_gives_the_integers_of_the_dpu(self, tmp_path: Path) -> None:
        """Int8 logits (images, classes) at the output's fix position, of the images that it was given."""
        run = self._run(tmp_path)
        told = run.report.output.fix_position
        fix = self.network().output.fix if told is None else told
        assert fix is not None
        assert run.logits.dtype == np.int8
        np.testing.assert_array_equal(run.logits.reshape(_IMAGES, -1), np.ldexp(self._integers(), fix))
        np.testing.assert_array_equal(run.images, self._images())

    def test_a_run_says_what_it_ran_and_when(self, tmp_path: Path) -> None:
        """The file's checksum, how many images, and this machine's time with its zone."""
        run = self._run(tmp_path)
        assert run.report.xmodel.sha256 == hashlib.sha256(self.xmodel(tmp_path).read_bytes()).hexdigest()
        assert run.report.images.count == _IMAGES
        assert datetime.fromisoformat(run.measured_at).tzinfo is not None

    def test_right_classes_are_counted_where_there_are_labels(self, tmp_path: Path) -> None:
        """From the logits, the first of equal ones; None without labels."""
        labels = np.argmax(self._integers(), axis=1)
        labels[-1] = (labels[-1] + 1) % 10
        assert self._run(tmp_path, labels).correct == _IMAGES - 1
        assert self._run(tmp_path).correct is None

    def test_it_says_what_it_is(self) -> None:
        """`probe` needs no network."""
        probe = self.make().probe()
        assert isinstance(probe, BoardProbe)
        assert probe.problem is None

    def test_what_it_cannot_run_is_refused(self, tmp_path: Path) -> None:
        """A file that is no network, and images of another shape, with an error of `edgesearch.errors`."""
        damaged = tmp_path / "damaged.xmodel"
        damaged.write_bytes(b"this is no network")
        with pytest.raises(EdgesearchError):
            self.make().run(damaged, self._images())
        with pytest.raises(EdgesearchError):
            self.make().run(self.xmodel(tmp_path), self._images()[:, :4])
