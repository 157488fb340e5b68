"""A board that exists as a profile: speed from the time of a network's code, accuracy from integer execution."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgesearch.board_eval.boards._board import Labels
from edgesearch.board_eval.boards._measurement import Measurement
from edgesearch.board_eval.boards._speed import Compiler, board_timing, check_compiler
from edgesearch.board_eval.compiler import Feature
from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.targets import BoardProfile, Dpu, check_profile
from edgesearch.board_eval.timing import Timing
from edgesearch.errors import BoardError

__all__ = ["SimulatedBoard"]

_DEFAULT_COMPILER: Compiler = "edgesearch"
#: Images that are executed at a time.
_BATCH = 512


class SimulatedBoard:
    """The board of a profile, fed by one of its runners (None: its default), with code of one of the compilers.

    `device` is torch's name of where networks are executed; integers are the same on every device, so it is no part of the
    content. Raises TargetError for no profile or a runner that it lacks, SettingsError for another `compiler`.
    """

    def __init__(
        self,
        profile: BoardProfile,
        *,
        runner: str | None = None,
        compiler: Compiler = _DEFAULT_COMPILER,
        allow: Collection[Feature] = (),
        device: str = "cpu",
    ) -> None:
        check_profile(profile)
        check_compiler(compiler)
        profile.runner(runner)  # raises TargetError for one that it does not have
        self.profile = profile
        self.runner = runner or profile.default_runner
        self.compiler: Compiler = compiler
        self.allow: tuple[Feature, ...] = tuple(sorted(set(allow)))
        self.device = device
        self._timed: tuple[Graph, Timing] | None = None  # the last network: images come in batches

    @classmethod
    def of_content(cls, content: Mapping[str, Any], *, device: str = "cpu") -> SimulatedBoard:
        """The board that `content` is that of."""
        fields = {"name": "simulated", **content}
        compiler = fields.pop("compiler", _DEFAULT_COMPILER)
        allow = fields.pop("allow", ())
        return cls(BoardProfile.model_validate(fields), compiler=compiler, allow=allow, device=device)

    def with_compiler(self, compiler: Compiler, allow: Collection[Feature] = ()) -> Self:
        """The same board with code of this compiler, which may use the features in `allow`."""
        check_compiler(compiler)
        other = copy.copy(self)
        other.compiler, other.allow, other._timed = compiler, tuple(sorted(set(allow))), None
        return other

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name

    @property
    def target(self) -> Dpu:
        """The profile's DPU."""
        return self.profile.dpu

    @property
    def is_pure(self) -> bool:
        """True: a simulation gives the same result always and everywhere."""
        return True

    @property
    def resource(self) -> str:
        """None is needed."""
        return ""

    @property
    def content(self) -> Mapping[str, Any]:
        """The profile without its name and origins, which decide nothing, with the one runner that it is fed by.

        The compiler is named where it is not the default one, and what its code may use where that is anything.
        """
        content: dict[str, Any] = self.profile.model_dump(mode="json", exclude={"name", "origin"})
        host = self.profile.runner(self.runner).model_dump(mode="json", exclude={"origin"})
        content |= {"runners": {self.runner: host}, "default_runner": self.runner}
        if self.compiler != _DEFAULT_COMPILER:
            return content | {"compiler": self.compiler}
        return content | {"allow": list(self.allow)} if self.allow else content

    def measure(
        self,
        network: Graph | str | Path,
        images: Array | None = None,
        labels: Labels | None = None,
    ) -> Measurement:
        """Speed, and accuracy when `images` (float32, normalised, NHWC) and `labels` are given. Weights may be absent else.

        Raises XmodelError for a file that cannot be read, GraphError for a network the DPU cannot hold, BoardError for images
        without labels, or for a network that is not quantized when accuracy is asked for.
        """
        graph = network if isinstance(network, Graph) else _read(Path(network))
        timing = self._timing(graph)
        correct = None if images is None and labels is None else _correct(graph, images, labels, self.device)
        return Measurement(
            latency_s=timing.latency_s,
            throughput_fps=timing.throughput_fps,
            fps_error=timing.throughput_error or None,
            latency_error=timing.latency_error or None,
            correct=correct,
            images=0 if images is None else len(images),
            conditions={
                "board": self.profile.name,
                "dpu": f"{self.profile.cores} x {self.profile.dpu.name} at {self.profile.clock_mhz:g} MHz",
                "measured": "simulated",
                "compiler": self.compiler,
                "latency": f"one thread, {self.runner} runner",
                "throughput": f"all cores busy, {self.runner} runner",
                "latency_bound": timing.latency_bound,
                "throughput_bound": timing.throughput_bound,
            },
        )

    def _timing(self, graph: Graph) -> Timing:
        if self._timed is None or self._timed[0] is not graph:
            timing = board_timing(
                graph, self.profile, compiler=self.compiler, allow=self.allow, runner=self.runner, layers=False
            )
            self._timed = graph, timing
        return self._timed[1]


def _read(path: Path) -> Graph:
    from edgesearch.board_eval.xmodel import read_xmodel

    return read_xmodel(path)


def _correct(graph: Graph, images: Array | None, labels: Labels | None, device: str) -> int:
    if images is None or labels is None:
        raise BoardError("accuracy needs both images and labels; one of them was not given")
    if np.shape(labels) != (len(images),) or len(images) == 0:
        raise BoardError(
            f"accuracy needs as many labels as images and at least one; given {len(images)} images, labels of shape "
            f"{np.shape(labels)}"
        )
    if not graph.quantized:
        raise BoardError(f"network {graph.name!r} is not quantized; quantize it before its accuracy on a board is asked for")
    from edgesearch.board_eval.execution import execute

    right = 0
    for start in range(0, len(images), _BATCH):
        logits = execute(graph, images[start : start + _BATCH], device=device)
        right += int(np.sum(np.argmax(logits, axis=1) == labels[start : start + _BATCH]))
    return right
