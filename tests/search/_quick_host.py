"""A board whose host keeps up with any network, so that small ones differ in images a second."""

from __future__ import annotations

import json
from pathlib import Path

from edgesearch.board_eval.targets import load_profile

__all__ = ["write_quick_host"]


def write_quick_host(folder: Path) -> str:
    """The line of a study that names it. Its Python threads share no interpreter."""
    profile = json.loads(load_profile("zcu104").to_json())
    profile["runners"]["vart_python"]["serial_seconds"] = 0.0
    (folder / "quick_host.json").write_text(json.dumps(profile))
    return 'board = "quick_host.json"\n'
