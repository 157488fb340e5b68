"""`edgesearch board`: the boards in reach, whether they serve, and what is left on them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesearch.board_eval import is_profile_path
from edgesearch.board_eval.remote import (
    Boards,
    BoardSettings,
    Check,
    accept_host_key,
    add_board,
    boards_path,
    check_boards,
    host_key,
    known_keys,
    load_boards,
    release_board,
)
from edgesearch.errors import BoardError
from edgesearch.files import expanded

_PATHS = ("key", "known_hosts")


def add(*, name: str, accept: bool, boards: Path | None, **keys: Any) -> int:
    """Write the board's table once its key is known; returns the exit code."""
    given = _given(keys)
    settings = add_board(name, given, boards, write=False)
    _know_host_key(settings, accept)
    add_board(name, given, boards)
    click.echo(f"{name}: written to {boards_path(boards)}; `edgesearch board test {name}` says whether it serves")
    return 0


def _given(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the command line has, as the file is to have them: it may lie elsewhere than here."""
    given = {key: value for key, value in keys.items() if value is not None}
    for key in _PATHS:
        if key in given:
            given[key] = str(expanded(given[key], f"--{key.replace('_', '-')}", BoardError).absolute())
    if is_profile_path(str(given.get("target", ""))):
        given["target"] = str(expanded(given["target"], "--target", BoardError).absolute())
    if "power_cycle" in given:
        try:
            given["power_cycle"] = shlex.split(given["power_cycle"])
        except ValueError as error:
            raise BoardError(f"--power-cycle {given['power_cycle']!r} is no command: {error}") from error
    return given


def _know_host_key(settings: BoardSettings, accept: bool) -> None:
    """A key that nobody has seen is shown, and kept only when somebody says so."""
    known = known_keys(settings.known_hosts, settings.host, settings.port)
    if known:
        click.echo(f"key of {settings.host}: {', '.join(known)}, known from {settings.known_hosts}")
        return
    key = host_key(settings)
    click.echo(f"{settings.host} port {settings.port} shows the key {key.algorithm} {key.fingerprint}")
    click.echo("compare it with the board's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, on its console")
    if not accept and sys.stdin.isatty():
        accept = click.confirm("is it the board's?")
    if not accept:
        raise BoardError(
            f"the key of {settings.host} is not known, and nothing was written; add --accept-host-key once you compared it"
        )
    accept_host_key(settings, key)
    click.echo(f"key of {settings.host}: kept in {settings.known_hosts}")


def show(*, style: str, boards: Path | None) -> int:
    """Print what the boards file names; no board is asked."""
    found = load_boards(boards)
    rows = [_row(settings, found) for settings in found.boards.values()]
    if style == "json":
        pools = {name: list(members) for name, members in found.pools.items()}
        click.echo(json.dumps({"file": str(found.path), "boards": rows, "pools": pools}, indent=1))
        return 0
    if not rows:
        click.echo(f"{found.path} names no board; `edgesearch board add` adds one")
        return 0
    table = Table("board", "host", "user", "target", "runner", "pools")
    for row in rows:
        where = f"{row['host']}:{row['port']}"
        cells = (row["name"], where, row["user"], row["target"], row["runner"], ", ".join(row["pools"]))
        table.add_row(*map(Text, cells))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160).print(table)
    for row in rows:
        if row["problem"] is not None:
            click.secho(row["problem"], fg="red")
    return 0


def _row(settings: BoardSettings, boards: Boards) -> dict[str, Any]:
    try:
        settings.check()
        problem = None
    except BoardError as error:
        problem = str(error)
    pools = [name for name, members in boards.pools.items() if settings.name in members]
    return {**settings.model_dump(mode="json"), "pools": pools, "problem": problem}


def test(*, names: tuple[str, ...], boards: Path | None) -> int:
    """Enter each board and say what is good and what is not; returns 2 when anything is not."""
    found = load_boards(boards)
    if not names and not found.boards:
        raise BoardError(f"{found.path} names no board; `edgesearch board add` adds one")
    failed = False
    for name, checks in check_boards(found, names or tuple(found.boards)):
        click.echo(name)
        for check in checks:
            failed |= check.is_good is False
            click.echo(line_of(check))
    return 2 if failed else 0


def line_of(check: Check) -> str:
    """A check as a line: green, red, or plain for what is worth knowing."""
    word, colour = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("note", None)}[check.is_good]
    return f"  {click.style(f'{word:<7}', fg=colour)}  {check.name}: {check.text}"


def release(*, name: str, force: bool, boards: Path | None) -> int:
    """Remove what dead drivers left on the board, and say what that was; returns the exit code."""
    released = release_board(load_boards(boards).board(name), force=force)
    for folder in released.removed:
        click.echo(f"removed {folder} and ended its program")
    if not released.removed:
        click.echo(f"nothing of a dead driver was on {name}")
    for folder in released.kept:
        click.echo(f"left {folder} alone: its driver lives (--force ends it)")
    words = {True: "held by a running program", False: "free", None: "not told by the board"}
    click.echo(f"lock: {words[released.is_locked]}")
    return 0
