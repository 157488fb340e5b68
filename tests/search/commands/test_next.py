"""The commands that are named as the next ones can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from edgesearch.search.commands._next import hint, options

SECRET = "postgresql+psycopg://me:secret@host/studies"


def test_names_and_paths_are_quoted_for_a_shell() -> None:
    words = options("tiny", Path("my runs"), "sqlite:///a b.db")
    assert shlex.split(words) == ["--study", "tiny", "--home", "my runs", "--storage", "sqlite:///a b.db"]
    assert options("tiny", Path("runs"), None) == "--study tiny"
    assert options(None, Path("runs"), None) == ""
    assert hint("sqlite:///a b.db") == ""


def test_a_password_is_left_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESEARCH_STORAGE", raising=False)
    assert options("tiny", Path("runs"), SECRET) == '--study tiny --storage "$EDGESEARCH_STORAGE"'
    assert options(None, Path("runs"), SECRET) == '--storage "$EDGESEARCH_STORAGE"'
    assert "EDGESEARCH_STORAGE" in hint(SECRET)
    assert "secret" not in options("tiny", Path("runs"), SECRET) + hint(SECRET)
    monkeypatch.setenv("EDGESEARCH_STORAGE", SECRET)
    assert options("tiny", Path("runs"), SECRET) == "--study tiny"
    assert hint(SECRET) == ""
