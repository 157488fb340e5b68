"""A board in reach of SSH: compiles, runs, compares with the network's own integers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesearch.board_eval.boards._board import Labels
from edgesearch.board_eval.boards._measurement import Measurement
from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.remote import BoardSettings
from edgesearch.board_eval.targets import Dpu

__all__ = ["SshBoard"]

#: Counts up when results of the same board mean something else than before.
_PROTOCOL = 1


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
        """See `Board`."""
        raise NotImplementedError
