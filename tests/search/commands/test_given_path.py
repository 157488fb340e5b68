from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgesearch.errors import DataError
from edgesearch.search.commands._given_path import GivenPath


@click.command()
@click.option("-o", "--output", type=GivenPath(is_written=True))
@click.option("--images", type=GivenPath())
def command(output: Path | None, images: Path | None) -> None:
    click.echo(str(output or images))


def given(*words: str) -> str:
    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout.rstrip("\n")


def test_a_tilde_is_the_home_folder_where_a_shell_leaves_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given("--output=~/x") == f"{tmp_path}/x"
    assert given("--images=~/x") == f"{tmp_path}/x"
    assert given("-o", "a~/x") == "a~/x"


def test_what_is_no_path_is_told_with_its_option() -> None:
    with pytest.raises(DataError, match='--output: "" is no path; give one, or leave it out'):
        given("--output=")
    with pytest.raises(DataError, match="--output: '~nobody_at_all/x' is no path"):
        given("-o", "~nobody_at_all/x")
    with pytest.raises(DataError, match=r"--output is .* a path that is not UTF-8; give another name"):
        given("-o", "caf\udce9.html")


def test_files_of_any_name_are_read() -> None:
    result = CliRunner().invoke(command, ["--images", "caf\udce9.npy"], standalone_mode=False)
    assert not isinstance(result.exception, DataError)
