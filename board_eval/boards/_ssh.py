"""A board in reach of SSH: compiles, runs, compares with the network's own integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.boards._board import Labels
from edgesearch.board_eval.boards._conditions import conditions
from edgesearch.board_eval.boards._logits import LogitsComparison
from edgesearch.board_eval.boards._measurement import Measurement
from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.remote import BoardProbe, BoardRun, BoardSettings, Released
from edgesearch.board_eval.targets import Dpu, Fingerprint
from edgesearch.errors import BoardError, BoardLost, BoardUnfit, XmodelError

if TYPE_CHECKING:
    from edgesearch.board_eval.deployment import CompiledXmodel

__all__ = ["SshBoard"]

#: Images whose logits are compared with our integers; so many of a file that only the machine executes, which is slow.
_COMPARED, _COMPARED_SLOWLY = 100, 8
#: Images of a measurement that was given none: random integers.
_OWN_IMAGES = 16
#: Counts up when results of the same board mean something else than before.
_PROTOCOL = 1

Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class _Network:
    """A compiled file, and what its integers are by our own execution: int8 images to logits (N, values), on at most `most`."""

    compiled: CompiledXmodel
    execute: Callable[[Int8], Array]
    most: int = _COMPARED


class SshBoard:
    """The board of a boards file. Several threads may use one object; every job has a connection of its own."""

    def __init__(self, settings: BoardSettings) -> None:
        self.settings = settings
        self.profile = settings.profile()

    @property
    def name(self) -> str:
        """Its name in the boards file."""
        return self.settings.name

    @property
    def target(self) -> Dpu:
        """The profile's DPU."""
        return self.profile.dpu

    @property
    def is_pure(self) -> bool:
        """False: it gives dated measurements."""
        return False

    @property
    def resource(self) -> str:
        """The board itself."""
        return f"board:{self.name}"

    @property
    def content(self) -> Mapping[str, Any]:
        """Which board, which DPU, how it is fed; not how it is reached."""
        return {
            "board": self.name,
            "dpu": self.target.model_dump(mode="json"),
            "runner": self.settings.runner,
            "threads": self.settings.threads,
            "protocol": _PROTOCOL,
        }

    def measure(
        self,
        network: Graph | str | Path,
        images: Array | None = None,
        labels: Labels | None = None,
    ) -> Measurement:
        """Compile the network (a compiled file is taken as it is), run it, and count right classes from the board's logits.

        `images` is (N, H, W, C): float32, normalised, which the input's fix position rounds (half up, saturating); or int8.
        Without images random ones are run, for speed and for the comparison of integers, which `conditions` tells.

        Raises GraphError, QuantizationError or CompileError for a network that cannot be compiled, QuantizationError for images
        that do not fit, XmodelError for a file that cannot be read, BoardError for images without labels and for a file of
        another fingerprint, BoardLost for a board at fault, BoardUnfit for one that is not what the boards file says.
        """
        if (images is None) != (labels is None):
            raise BoardError("accuracy needs both images and labels; one of them was not given")
        given = self._network(network)
        run = self._run(given.compiled, _own_images(given.compiled) if images is None else images, labels)
        measured = self.measured(run)
        return replace(measured, conditions={**measured.conditions, "integers": self._compared(given, run)})

    def measured(self, run: BoardRun) -> Measurement:
        """The figures of a run, and how they were taken; its integers are compared with nothing."""
        report = run.report
        return Measurement(
            latency_s=report.latency.median_ms / 1e3,
            throughput_fps=report.throughput.fps,
            correct=run.correct,
            images=0 if run.correct is None else len(run.images),
            power_w=None if report.power is None else report.power.busy_w,
            measured_at=run.measured_at,
            conditions=conditions(run, self),
        )

    def run(self, xmodel: str | Path | CompiledXmodel, images: Array | Int8, labels: Labels | None = None) -> BoardRun:
        """Run a compiled file on images as `measure` takes them; errors are those of `measure`."""
        from edgesearch.board_eval.deployment import CompiledXmodel

        compiled = xmodel if isinstance(xmodel, CompiledXmodel) else CompiledXmodel.read(xmodel)
        return self._run(compiled, images, labels)

    def probe(self) -> BoardProbe:
        """What the board is and has. Raises BoardError and BoardLost."""
        from edgesearch.board_eval.remote import probe_board  # SSH is imported where a board is entered

        return probe_board(self.settings)

    def release(self, *, force: bool = False) -> Released:
        """Remove what dead drivers left there, with `force` what living ones have too. Raises BoardError and BoardLost."""
        from edgesearch.board_eval.remote import release_board

        return release_board(self.settings, force=force)

    def _network(self, network: Graph | str | Path) -> _Network:
        from edgesearch.board_eval.deployment import CompiledXmodel, compile_xmodel
        from edgesearch.board_eval.execution import execute
        from edgesearch.board_eval.timing import check_fits
        from edgesearch.board_eval.xmodel import compiled_graph, is_compiled, read_xmodel

        if not isinstance(network, Graph) and is_compiled(network):
            compiled = CompiledXmodel.read(network)
            try:
                inside = compiled_graph(compiled.model)
            except XmodelError:
                return _Network(compiled, compiled.execute, _COMPARED_SLOWLY)
            return _Network(compiled, lambda images: execute(inside, images))
        graph = network if isinstance(network, Graph) else read_xmodel(network)
        check_fits(graph, self.target)
        return _Network(compile_xmodel(graph, self.target), lambda images: execute(graph, images))

    def _run(self, compiled: CompiledXmodel, images: Array | Int8, labels: Labels | None) -> BoardRun:
        from edgesearch.board_eval.remote import run_on_board

        self._check_fingerprint(compiled)
        if len(compiled.outputs) != 1:
            raise BoardError(f"network {compiled.name!r} has {len(compiled.outputs)} outputs; boards measure those of one")
        if labels is not None and np.shape(labels) != (len(images),):
            shape = np.shape(labels)
            raise BoardError(f"accuracy needs as many labels as images; given {len(images)} images, labels of shape {shape}")
        integers = compiled.integers(images)
        try:
            run = run_on_board(self.settings, compiled.content, integers, math.prod(compiled.outputs[0].shape), labels)
        except BoardLost:
            raise
        except BoardError:
            self._check_board()
            raise
        self._check_report(compiled, run)
        return run

    def _check_fingerprint(self, compiled: CompiledXmodel) -> None:
        ours, theirs = Fingerprint(self.target.fingerprint), Fingerprint(compiled.model.fingerprint)
        if not ours.accepts(theirs):
            raise BoardError(
                f"network {compiled.name!r} is compiled for a DPU of fingerprint {theirs}, board {self.name!r} has {ours} "
                f"({'; '.join(ours.differences(theirs))}); compile it again with --fingerprint {ours}"
            )

    def _check_board(self) -> None:
        """Raise BoardUnfit where the board is not what the boards file says: it refuses every file then, not only this one."""
        from edgesearch.board_eval.remote import check_board

        for check in check_board(self.settings):
            if check.name in ("fingerprint", "VART", "runner") and check.is_good is False:
                raise BoardUnfit(f"board {self.name!r}, {check.name}: {check.text}")

    def _check_report(self, compiled: CompiledXmodel, run: BoardRun) -> None:
        """What the board says it ran must be what it was given."""
        report = run.report
        told = {
            "checksum": (report.xmodel.sha256, compiled.sha256),
            "fix position of the input": (report.input.fix_position, compiled.input.fix),
            "fix position of the output": (report.output.fix_position, compiled.outputs[0].fix),
        }
        for what, (theirs, ours) in told.items():
            if theirs is not None and theirs != ours:
                kind = BoardLost if what == "checksum" else BoardError
                raise kind(f"board {self.name!r} ran network {compiled.name!r} with the {what} {theirs}, expected {ours}")

    def _compared(self, given: _Network, run: BoardRun) -> str:
        count = min(len(run.images), given.most)
        expected = given.execute(run.images[:count])
        return LogitsComparison.of(run.logits[:count], expected, given.compiled.outputs[0].fix).verdict


def _own_images(compiled: CompiledXmodel) -> Int8:
    shape = (_OWN_IMAGES, *compiled.input.shape)
    return np.random.default_rng(0).integers(-128, 128, shape, np.int8)
