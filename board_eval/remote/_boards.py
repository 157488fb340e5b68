"""The file that names boards and pools of boards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgesearch.board_eval.remote._settings import NAME, BoardSettings
from edgesearch.board_eval.targets import is_profile_path, profile_names
from edgesearch.errors import BoardError
from edgesearch.files import expanded, parse_toml

__all__ = ["Boards", "boards_path", "load_boards", "parse_boards"]

_VARIABLE = "EDGESEARCH_BOARDS"
_MOST_BYTES = 1 << 20
#: Parts of keys that hold a secret; such a key's value is never shown.
_SECRETS = ("passw", "passphrase", "passcode", "secret", "token", "pwd", "credential")
_PATHS = ("key", "known_hosts")


@dataclass(frozen=True)
class Boards:
    """What a boards file names. A file that is not there names nothing."""

    path: Path
    boards: Mapping[str, BoardSettings] = field(default_factory=dict)
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def board(self, name: str) -> BoardSettings:
        """The board of this name, its profile and key usable as far as this machine can tell; raises BoardError."""
        if name not in self.boards:
            raise BoardError(self._unknown("board", name, self.boards))
        settings = self.boards[name]
        self._checked(settings)
        return settings

    def pool(self, name: str) -> tuple[BoardSettings, ...]:
        """The boards of the pool of this name, all of one target; raises BoardError."""
        if name not in self.pools:
            raise BoardError(self._unknown("pool", name, self.pools))
        return tuple(self.board(member) for member in self.pools[name])

    def _checked(self, settings: BoardSettings) -> None:
        try:
            settings.check()
        except BoardError as error:
            raise BoardError(f"{self.path}: {error}") from error

    def _unknown(self, what: str, name: str, known: Mapping[str, Any]) -> str:
        named = ", ".join(sorted(known)) or "none"
        if not self.path.exists():
            return f"unknown {what} {name!r}: there is no boards file {self.path}; `edgesearch board add` writes it"
        return f"unknown {what} {name!r}: {self.path} names {named}; `edgesearch board add` adds a board"


def boards_path(path: str | Path | None = None) -> Path:
    """The boards file: `path`, else what EDGESEARCH_BOARDS says, else ~/.config/edgesearch/boards.toml.

    Raises BoardError where that can be no path.
    """
    given = path or os.environ.get(_VARIABLE) or "~/.config/edgesearch/boards.toml"
    return expanded(given, "boards file", BoardError)


def load_boards(path: str | Path | None = None) -> Boards:
    """The boards and pools of the boards file; none where there is no file.

    Relative paths in it start at its folder. Raises BoardError for a file that cannot be read, with its table, key and value
    where one is wrong.
    """
    place = boards_path(path)
    try:
        with place.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return Boards(place)
    except OSError as error:
        raise BoardError(f"boards file {str(place)!r} cannot be read: {error.strerror or error}") from error
    return parse_boards(content, place)


def parse_boards(content: bytes, place: Path) -> Boards:
    """See `load_boards`."""
    if len(content) > _MOST_BYTES:
        raise BoardError(f"{place} is larger than 1 MiB; expected a TOML file with tables [board.NAME]")
    try:
        tables = parse_toml(content)
    except ValueError as error:
        raise BoardError(f"{place} is not valid TOML: {error}") from error
    unknown = sorted(set(tables) - {"board", "pool"})
    if unknown:
        raise BoardError(f"{place}: unknown key {unknown[0]!r}; expected tables [board.NAME] and [pool.NAME]")
    boards = {name: _board(name, table, place) for name, table in _tables(tables, "board", place).items()}
    pools = {name: _pool(name, table, boards, place) for name, table in _tables(tables, "pool", place).items()}
    return Boards(place, boards, pools)


def _tables(tables: Mapping[str, Any], kind: str, place: Path) -> dict[str, dict[str, Any]]:
    found = tables.get(kind, {})
    if not isinstance(found, dict):
        raise BoardError(f"{place}: {kind} is {found!r}, expected tables [{kind}.NAME]")
    for name, table in found.items():
        where = f"{place}: [{kind}.{name}]"
        if not NAME.fullmatch(name):
            raise BoardError(
                f"{where}: {name!r} is no name of a {kind}; expected letters, digits, '.', '_' and '-', at most 64, a letter "
                "or digit first"
            )
        if name in profile_names() or is_profile_path(name):
            raise BoardError(f"{where}: {name!r} is the name of a simulated board; give this one another, as lab-{name}")
        if not isinstance(table, dict):
            raise BoardError(f"{where}: is {table!r}, expected a table of keys")
    return found


def _board(name: str, table: dict[str, Any], place: Path) -> BoardSettings:
    where = f"{place}: [board.{name}]"
    for key in table:
        if any(part in key.lower() for part in _SECRETS):
            raise BoardError(
                f"{where} {key}: no password is kept in files or used; take it out, make a key with ssh-keygen -t ed25519 and "
                "name its file as key"
            )
    if "-----BEGIN" in str(table.get("key")):
        raise BoardError(f"{where} key: it holds a key itself; move it to a file that only you may read, and give its path")
    if "name" in table:
        raise BoardError(f"{where} name: unknown key (given: {table['name']!r}); the table's own name is the board's")
    try:
        return BoardSettings.model_validate({"name": name, **_anchored(table, place.parent, where)})
    except ValidationError as error:
        raise BoardError(f"{where} {_sentence(error)}") from error


def _anchored(table: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The table with absolute paths."""
    anchored = {"known_hosts": "~/.ssh/known_hosts", **table}
    for key in _PATHS:
        if isinstance(anchored.get(key), str):
            anchored[key] = str(folder.absolute() / expanded(anchored[key], f"{where} {key}", BoardError))
    target = anchored.get("target")
    if isinstance(target, str) and is_profile_path(target):
        anchored["target"] = str(folder.absolute() / expanded(target, f"{where} target", BoardError))
    return anchored


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        meaning = {"host": "the board's name or address", "key": "the path of the private key that opens it"}
        return f"{key}: is missing; give {meaning.get(key, 'it')}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(name for name in BoardSettings.model_fields if name != "name")
        return f"{key}: unknown key (given: {first['input']!r}); known are {known}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said} (given: {first['input']!r})" if key else said  # the table holds the key's path, which none need see


def _pool(name: str, table: dict[str, Any], boards: Mapping[str, BoardSettings], place: Path) -> tuple[str, ...]:
    where = f"{place}: [pool.{name}]"
    unknown = sorted(set(table) - {"boards"})
    if unknown:
        raise BoardError(f"{where} {unknown[0]}: unknown key (given: {table[unknown[0]]!r}); the only one is boards")
    if name in boards:
        raise BoardError(f"{where}: a board has this name too; give the pool another")
    members = table.get("boards")
    if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
        raise BoardError(f"{where} boards: expected a list of names of boards (given: {members!r})")
    absent = [member for member in members if member not in boards]
    if absent:
        raise BoardError(f"{where} boards: there is no [board.{absent[0]}]; known are {', '.join(sorted(boards)) or 'none'}")
    if len(set(members)) < len(members):
        raise BoardError(f"{where} boards: a board is named twice (given: {members!r})")
    targets = {boards[member].target: member for member in members}
    if len(targets) > 1:
        differing = " and ".join(f"{member} {target!r}" for target, member in targets.items())
        raise BoardError(f"{where} boards: all must have one target, and theirs are {differing}")
    return tuple(members)
