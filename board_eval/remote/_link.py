"""One connection to a board: commands with bounded output and a time-out.

A command is a list of words; the shell on the board sees them quoted. Bytes go in through its standard input and come out
through its standard output, so that the board needs no SFTP server, and so that what is kept of a hostile board's answers is
counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import asyncssh

from edgesearch.board_eval.remote._host_key import known_keys
from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.board_eval.remote._text import last_line, printable
from edgesearch.errors import BoardLost, BoardUnfit

__all__ = ["Link", "Outcome", "connect"]

_CONNECT_S = 20.0
#: A board that answers none of three such questions in a row is lost.
_KEEPALIVE_S = 10.0
_CHUNK = 1 << 16
#: Bytes kept of what a command says on its standard error, the last ones.
_ERRORS = 1 << 14


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `code` is None when a signal or the end of its channel ended it."""

    code: int | None
    output: bytes
    errors: bytes
    #: Whether there was more output than asked for.
    truncated: bool = False

    @property
    def said(self) -> str:
        """Its last word, printable."""
        return last_line(self.errors)


class Link:
    """An open connection to the board of `settings`. Commands may run side by side."""

    def __init__(self, connection: asyncssh.SSHClientConnection, settings: BoardSettings) -> None:
        self._connection = connection
        self.settings = settings

    async def start(self, words: Sequence[str]) -> asyncssh.SSHClientProcess[bytes]:
        """A command whose streams are the caller's."""
        async with asyncio.timeout(self.settings.timeout_s):
            return await self._connection.create_process(shlex.join(words), encoding=None)

    async def run(
        self,
        words: Sequence[str],
        *,
        data: bytes = b"",
        limit: int = _CHUNK,
        on_line: Callable[[bytes, asyncio.Timeout], None] | None = None,
    ) -> Outcome:
        """Run a command with `data` as its input; at most `limit` bytes of its output are kept.

        `on_line` is called with every line of its standard error and the time-out, which it may put off. Raises BoardLost when
        the command takes too long, ConnectionError or asyncssh.Error when the connection ends.
        """
        process = await self.start(words)
        errors = bytearray()
        try:
            async with asyncio.timeout(self.settings.timeout_s) as deadline:
                _, (output, truncated), _ = await asyncio.gather(
                    _feed(process, data), _read(process, limit), _read_errors(process, errors, on_line, deadline)
                )
                if not truncated:
                    await process.wait_closed()
        except TimeoutError as error:
            raise BoardLost(
                f"board {self.settings.name!r} did not finish a step in time (timeout_s = {self.settings.timeout_s:g}); its "
                f"last word: {last_line(bytes(errors), otherwise='none')}"
            ) from error
        finally:
            process.close()
        return Outcome(process.exit_status if process.exit_signal is None else None, output, bytes(errors), truncated)


async def _feed(process: asyncssh.SSHClientProcess[bytes], data: bytes) -> None:
    """A command that ends before it has read everything says why on its standard error."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK):
            process.stdin.write(bytes(view[start : start + _CHUNK]))
            await process.stdin.drain()
        process.stdin.write_eof()


async def _read(process: asyncssh.SSHClientProcess[bytes], limit: int) -> tuple[bytes, bool]:
    """Its output, and whether there was more; then nothing else is read and the command is given up."""
    output = bytearray()
    while piece := await process.stdout.read(_CHUNK):
        output += piece
        if len(output) > limit:
            process.close()
            return bytes(output[:limit]), True
    return bytes(output), False


async def _read_errors(
    process: asyncssh.SSHClientProcess[bytes],
    kept: bytearray,
    on_line: Callable[[bytes, asyncio.Timeout], None] | None,
    deadline: asyncio.Timeout,
) -> None:
    begun = b""
    while piece := await process.stderr.read(_CHUNK):
        kept += piece
        del kept[:-_ERRORS]
        if on_line is not None:
            *lines, begun = (begun + piece).split(b"\n")
            begun = begun[:_ERRORS]
            for line in lines:
                on_line(line, deadline)


@contextlib.asynccontextmanager
async def connect(settings: BoardSettings) -> AsyncIterator[Link]:
    """A connection that ends with the block.

    Raises BoardUnfit when the board's key is not the known one or it does not take ours, BoardLost when it cannot be reached,
    and when the connection ends inside of the block.
    """
    key = _private_key(settings)
    _check_known(settings)
    try:
        async with asyncio.timeout(_CONNECT_S + 5):
            connection = await _open(settings, key)
    except asyncssh.HostKeyNotVerifiable as error:
        raise BoardUnfit(
            f"board {settings.name!r} at {settings.host} port {settings.port} shows another key than the one in "
            f"{str(settings.known_hosts)!r}: another machine may answer there; if the board was set up anew, take the old key "
            f"out with {_forget(settings)} and add the new one"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise BoardUnfit(
            f"board {settings.name!r} lets {settings.user!r} not in with the key {str(settings.key)!r}; add its .pub to the "
            "board's ~/.ssh/authorized_keys"
        ) from error
    except (OSError, asyncssh.Error) as error:
        raise BoardLost(
            f"board {settings.name!r} cannot be reached at {settings.host} port {settings.port} ({_reason(error)}); is it on, "
            "and is the address right?"
        ) from error
    try:
        yield Link(connection, settings)
    except (ConnectionError, TimeoutError, asyncssh.Error) as error:
        raise BoardLost(f"the connection to board {settings.name!r} ended ({_reason(error)})") from error
    finally:
        connection.close()
        try:
            async with asyncio.timeout(5):
                await connection.wait_closed()
        except (OSError, asyncssh.Error):
            connection.abort()


async def _open(settings: BoardSettings, key: asyncssh.SSHKey) -> asyncssh.SSHClientConnection:
    """Keys alone, the known host key alone; nothing of this machine is offered to the board."""
    return await asyncssh.connect(
        settings.host,
        settings.port,
        config=None,
        username=settings.user,
        client_keys=[key],
        known_hosts=str(settings.known_hosts),
        preferred_auth="publickey",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_path=None,
        agent_forwarding=False,
        x11_forwarding=False,
        # The network is faster than the board's cores at packing.
        compression_algs=None,
        connect_timeout=_CONNECT_S,
        login_timeout=_CONNECT_S,
        keepalive_interval=_KEEPALIVE_S,
        keepalive_count_max=3,
    )


def _private_key(settings: BoardSettings) -> asyncssh.SSHKey:
    settings.check()
    try:
        return asyncssh.read_private_key(str(settings.key))
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, asyncssh.KeyEncryptionError) or "Passphrase" in str(error):
            raise BoardUnfit(
                f"board {settings.name!r}, key: {str(settings.key)!r} has a passphrase, which nobody is asked for; make a key "
                "without one for the board alone: ssh-keygen -t ed25519 -N '' -f FILE"
            ) from error
        raise BoardUnfit(f"board {settings.name!r}, key: {str(settings.key)!r} is no private key: {_reason(error)}") from error


def _check_known(settings: BoardSettings) -> None:
    if not known_keys(settings.known_hosts, settings.host, settings.port):
        raise BoardUnfit(
            f"the key of board {settings.name!r} at {settings.host} port {settings.port} is not in "
            f"{str(settings.known_hosts)!r}; compare it with the board's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub "
            "there) and add it with ssh-keyscan, or with `edgesearch board add --accept-host-key`"
        )


def _forget(settings: BoardSettings) -> str:
    host = settings.host if settings.port == 22 else f"[{settings.host}]:{settings.port}"
    return f"ssh-keygen -R {host} -f {settings.known_hosts}"


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "time-out"
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return printable(str(text)) or type(error).__name__
