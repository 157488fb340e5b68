"""The key that a board shows, and the file of keys that are known."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncssh

from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.board_eval.remote._sync import run_sync
from edgesearch.board_eval.remote._text import printable
from edgesearch.errors import BoardError, BoardLost

__all__ = ["HostKey", "accept_host_key", "host_key", "known_keys"]

_ANSWER_S = 20.0


class HostKey:
    """The key that a machine showed when it was asked."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self.key = key

    @property
    def algorithm(self) -> str:
        """As "ssh-ed25519"."""
        return str(self.key.get_algorithm())

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it, "SHA256:..."."""
        return str(self.key.get_fingerprint())


def known_keys(path: Path, host: str, port: int) -> list[str]:
    """Fingerprints of the keys that a known_hosts file has for a machine, [] where there is no file.

    Raises BoardError for a file that cannot be read.
    """
    try:
        found = asyncssh.read_known_hosts(str(path)).match(host, "", port)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise BoardError(f"known_hosts file {str(path)!r} cannot be read: {printable(str(error))}") from error
    return [str(key.get_fingerprint()) for keys in found[:2] for key in keys]


def host_key(settings: BoardSettings) -> HostKey:
    """Ask the machine for its key, without entering it. Raises BoardLost when it does not answer."""

    async def ask() -> asyncssh.SSHKey | None:
        async with asyncio.timeout(_ANSWER_S):
            return await asyncssh.get_server_host_key(settings.host, settings.port, config=None)

    try:
        key = run_sync(ask())
    except (OSError, asyncssh.Error) as error:
        raise BoardLost(
            f"nothing answers as an SSH server at {settings.host} port {settings.port} ({printable(str(error)) or 'time-out'})"
        ) from error
    if key is None:
        raise BoardLost(f"the machine at {settings.host} port {settings.port} shows no key")
    return HostKey(key)


def accept_host_key(settings: BoardSettings, key: HostKey) -> None:
    """Append the key to the board's known_hosts file. Raises BoardError where that cannot be written."""
    path = settings.known_hosts
    where = settings.host if settings.port == 22 else f"[{settings.host}]:{settings.port}"
    line = f"{where} {key.key.export_public_key('openssh').decode().strip()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = f"\n{line}"
            file.write(line.encode())
    except OSError as error:
        raise BoardError(f"known_hosts file {str(path)!r} cannot be written: {error.strerror or error}") from error
