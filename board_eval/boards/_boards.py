"""What measures a network: a board, simulated or real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.targets import BoardProfile
from edgesearch.board_eval.timing import Runner, time_graph
from edgesearch.errors import BoardError

Labels: TypeAlias = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Measurement:
    """What a board says about a network. None: not available."""

    latency_s: float
    throughput_fps: float
    accuracy: float | None
    power_w: float | None
    #: How it was measured: board, runner, threads, number of images, simulated or not.
    conditions: dict[str, str]

    @property
    def latency_fps(self) -> float:
        """Images per second, one thread, one image in flight."""
        return 1.0 / self.latency_s


@runtime_checkable
class Board(Protocol):
    """Anything that can run a network and say how fast and how well."""

    def measure(
        self,
        network: Graph | str | Path,
        images: Array | None = None,
        labels: Labels | None = None,
    ) -> Measurement:
        """Measure a network, or the xmodel at a path; with images (N, H, W, C) and labels (N,) its accuracy too."""
        ...


class SimulatedBoard:
    """A board that exists as a profile: speed from the timing model, accuracy from integer execution."""

    def __init__(self, profile: BoardProfile, *, runner: Runner = "python") -> None:
        self.profile = profile
        self.runner = runner

    def measure(
        self,
        network: Graph | str | Path,
        images: Array | None = None,
        labels: Labels | None = None,
    ) -> Measurement:
        """Speed, and accuracy when `images` (float32, normalised, NHWC) and `labels` are given.

        Raises XmodelError for a file that cannot be read, GraphError for a network the DPU cannot hold, BoardError for images
        without labels, or for a network that is not quantized when accuracy is asked for.
        """
        graph = network if isinstance(network, Graph) else _read(Path(network))
        timing = time_graph(graph, self.profile, runner=self.runner, layers=False)
        accuracy = None
        if images is not None or labels is not None:
            accuracy = _accuracy(graph, images, labels)
        return Measurement(
            latency_s=timing.latency_s,
            throughput_fps=timing.throughput_fps,
            accuracy=accuracy,
            power_w=None,
            conditions={
                "board": self.profile.name,
                "dpu": f"{self.profile.cores} x {self.profile.dpu.name} at {self.profile.clock_mhz:g} MHz",
                "measured": "simulated",
                "latency": f"one thread, {self.runner} runner",
                "throughput": "all cores busy",
                "images": "0" if images is None else str(len(images)),
            },
        )


def _read(path: Path) -> Graph:
    from edgesearch.board_eval.xmodel import read_xmodel

    graph: Graph = read_xmodel(path)
    return graph


def _accuracy(graph: Graph, images: Array | None, labels: Labels | None) -> float:
    if images is None or labels is None:
        raise BoardError("accuracy needs both images and labels; one of them was not given")
    if len(images) != len(labels) or len(images) == 0:
        raise BoardError(
            f"accuracy needs as many labels as images and at least one; given {len(images)} images, {len(labels)} labels"
        )
    if not graph.quantized:
        raise BoardError(f"network {graph.name!r} is not quantized; quantize it before its accuracy on a board is asked for")
    from edgesearch.board_eval.execution import execute

    logits = execute(graph, images)
    return float(np.mean(np.argmax(logits, axis=1) == labels))
