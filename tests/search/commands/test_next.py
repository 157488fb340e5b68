"""The commands that are named as the next ones can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgesearch.search.commands._next import given, hint, options

SECRET = "postgresql+psycopg://me:secret@host/studies"
SECRETS = [
    SECRET,
    *(f"postgresql+psycopg://me@host/studies?a=b&{key}=secret" for key in ("password", "passfile", "sslpassword")),
]


def test_names_and_paths_are_quoted_for_a_shell() -> None:
    words = options("tiny", Path("my runs"), "sqlite:///a b.db")
    assert shlex.split(words) == ["--study", "tiny", "--home", "my runs", "--storage", "sqlite:///a b.db"]
    assert options("tiny", Path("runs"), None) == "--study tiny"
    assert options(None, Path("runs"), None) == ""
    assert hint("sqlite:///a b.db") == ""


@pytest.mark.parametrize(
    ("home", "variable", "words"),
    [
        ("runs", None, []),
        ("runs", "", []),
        ("runs", "runs", []),
        ("runs", "/data/runs", ["--home", "runs"]),  # the variable would lead elsewhere
        ("/data/runs", "/data/runs", ["--home", "/data/runs"]),  # another shell may not have it
        ("/data/runs", None, ["--home", "/data/runs"]),
    ],
)
def test_a_home_is_left_out_only_where_every_shell_takes_it(
    home: str, variable: str | None, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGESEARCH_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv("EDGESEARCH_HOME", variable)
    assert shlex.split(options("tiny", Path(home), None)) == ["--study", "tiny", *words]


@pytest.mark.parametrize("url", SECRETS)
def test_a_password_is_left_to_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESEARCH_STORAGE", raising=False)
    assert options("tiny", Path("runs"), url) == '--study tiny --storage "$EDGESEARCH_STORAGE"'
    assert options(None, Path("runs"), url) == '--storage "$EDGESEARCH_STORAGE"'
    assert "EDGESEARCH_STORAGE" in hint(url)
    assert "secret" not in options("tiny", Path("runs"), url) + hint(url)
    monkeypatch.setenv("EDGESEARCH_STORAGE", url)
    assert options("tiny", Path("runs"), url) == "--study tiny"
    assert hint(url) == ""


def test_what_was_given_is_given_again_but_for_passwords_and_what_the_environment_says() -> None:
    @click.command()
    @click.option("--number", default=1.0)
    @click.option("--store", envvar="STORE")
    @click.option("--each", "-e", multiple=True)
    @click.option("--flag", is_flag=True)
    @click.option("--other")
    @click.option("--left-out")
    def command(**_: object) -> None:
        click.echo(shlex.join(given(without=["left_out"])))

    def said(*words: str) -> list[str]:
        return shlex.split(CliRunner().invoke(command, words, env={"STORE": "s3://here"}).output)

    assert said() == []
    words = ["--number", "1.0", "--each", "a b", "--each", "c", "--flag", "--other", "s3://bucket@place/folder"]
    assert said("--left-out", "x", *words) == words
    for secret in ("s3://me:secret@host/bucket", *SECRETS):
        assert said("--store", secret, "--number", "2.5") == ["--number", "2.5"]
