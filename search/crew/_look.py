"""A look at a board: a network that is known, and before it, where asked for, its power cut and given back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from edgesearch.board_eval import BoardProblem, BoardReference, examine
from edgesearch.errors import EdgesearchError
from edgesearch.search.crew._allocation import BoardRules, Remedy
from edgesearch.search.crew._crew import Look

#: Seconds between two tries to reach a board that boots.
_PAUSE_S = 5.0


def look_at(folder: Path | None, rules: BoardRules) -> Look:
    """What looks at boards, whose code is looked for in `folder` first."""

    def look(board: BoardReference, remedy: Remedy) -> BoardProblem | None:
        if remedy == "check":
            return _examine(board, folder)
        if (failure := cycle_power(board.power_cycle, seconds=rules.hook_s)) is not None:
            return BoardProblem(failure)
        deadline = time.monotonic() + rules.boot_s
        while (problem := _examine(board, folder)) is not None and time.monotonic() < deadline:
            time.sleep(min(_PAUSE_S, rules.boot_s))
        return problem

    return look


def _examine(board: BoardReference, folder: Path | None) -> BoardProblem | None:
    try:
        return examine(board.open(folder, brief=True))
    except EdgesearchError as error:
        return BoardProblem.of(error)


def cycle_power(command: tuple[str, ...], *, seconds: float) -> str | None:
    """Run a power-cycle command, without a shell: None, or why it did not end well, in one sentence."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"its power_cycle command {command[0]!r} did not end in {seconds:g} s"
    except (OSError, ValueError) as error:
        return f"its power_cycle command {command[0]!r} cannot be run: {error}"
    if ended.returncode == 0:
        return None
    said = ended.stderr.decode(errors="replace").strip().splitlines()
    return f"its power_cycle command {command[0]!r} ended with code {ended.returncode}{f' ({said[-1][:200]})' if said else ''}"
