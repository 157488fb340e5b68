"""The seam between a network and what measures it, simulated or real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.boards._measurement import Measurement
from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.targets import Target

__all__ = ["Board", "Labels"]

Labels: TypeAlias = npt.NDArray[np.integer]


@runtime_checkable
class Board(Protocol):
    """Anything that can run a network and say how fast and how well."""

    @property
    def name(self) -> str:
        """As a study names it, "zcu104"."""
        ...

    @property
    def target(self) -> Target:
        """The DPU on it: what a network must fit, and the fingerprint a compiled file needs."""
        ...

    @property
    def is_pure(self) -> bool:
        """Whether a result is a function of the network, the images and `content` alone.

        It is then computed once, anywhere. Else it is a dated measurement, which belongs to the board that made it.
        """
        ...

    @property
    def resource(self) -> str:
        """What only one measurement at a time can use, as "board:zcu104"; "": any number can run at once."""
        ...

    @property
    def content(self) -> Mapping[str, Any]:
        """What decides a result, as JSON can hold it. Boards with equal content give equal results if they are pure."""
        ...

    def measure(
        self,
        network: Graph | str | Path,
        images: Array | None = None,
        labels: Labels | None = None,
    ) -> Measurement:
        """Measure a network, or the xmodel at a path; with images (N, H, W, C), normalised, and labels (N,) its accuracy too.

        Raises GraphError for a network that the DPU cannot hold, XmodelError for a file that cannot be read, BoardError for
        images without labels and when the board does not answer.
        """
        ...
