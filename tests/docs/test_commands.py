from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_of_commands_is_what_they_say() -> None:
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "commands"), "--check"], check=False)
    assert done.returncode == 0, "run `.venv/bin/python .ci/commands`"


@pytest.mark.parametrize("program", ["_run_on_board.py", "run_on_board.cpp"])
def test_options_of_the_programs_for_a_board_are_documented(program: str) -> None:
    page = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")
    known = set(re.findall(r'"(--[a-z][a-z-]+)"', (ROOT / "board_eval" / "runner" / program).read_text(encoding="utf-8")))
    assert len(known) > 9
    assert {option for option in known - {"--help"} if not re.search(rf"{option}(?![a-z-])", page)} == set()
