"""Hard limits that a network is held to as soon as it is known which network it is, before more of it is trained.

They are no part of a stage's key: they decide whether the stage goes on, and never what it makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgesearch.board_eval import Board, SimulatedBoard, find_board, lower
from edgesearch.errors import Infeasible
from edgesearch.objectives.stages._excess import excess, metric_of
from edgesearch.objectives.stages._metrics import estimate

__all__ = ["NetworkLimits", "board_of"]


@dataclass(frozen=True)
class NetworkLimits:
    """Limits by name, {"min_fps": 100.0}, and what decides whether they are kept.

    board, import_path, source_sha256: content of a board that tells times without hardware, and where one of the user's own is
    found, and the code that it is.
    bits: that weights are stored in, at least.
    """

    values: Mapping[str, float]
    board: Mapping[str, Any] = field(default_factory=dict)
    import_path: str = ""
    source_sha256: str = ""
    bits: int = 8

    def check(self, model: nn.Module, shape: tuple[int, int, int], *, folder: Path | None = None) -> None:
        """Raise Infeasible where the network, for images of `shape` (channels, height, width), breaks a limit."""
        board = board_of(self.board, self.import_path, folder, self.source_sha256)
        figures = estimate(lower(model, shape, target=board.target), board, self.bits)
        broken = []
        for name, limit in self.values.items():
            metric = metric_of(name)
            if metric in figures and excess(name, limit, figures[metric]) > 0:
                broken.append(f"{name} = {limit:g}, and it has {figures[metric]:,g}")
        if broken:
            raise Infeasible(f"once its channels are chosen the network breaks a limit: {'; '.join(broken)}", figures)

    def to_json(self) -> dict[str, Any]:
        """As JSON, to hand it to another process."""
        return asdict(self)


def board_of(
    content: Mapping[str, Any], import_path: str, folder: Path | None, source_sha256: str = "", *, device: str = "cpu"
) -> Board:
    """The board with this content, or the user's own, looked for in `folder` first.

    Raises PluginError where its code is not that of `source_sha256`.
    """
    if import_path:
        compiler, allow = content.get("compiler", "edgesearch"), content.get("allow", ())
        return find_board(import_path, folder=folder, compiler=compiler, allow=allow, expected_sha256=source_sha256)
    return SimulatedBoard.of_content(content, device=device)
