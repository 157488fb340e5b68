"""Folders on the board: the private one of a job, which ends with its connection, and what dead drivers left.

A folder's name is drawn here, from 128 random bits, and made by a process on the board, its keeper. The keeper ends when its
input does: because the job is done, or because the connection, the driver or the board's SSH server died. It then ends
whatever has the folder in its command line, and removes the folder. A folder without a living keeper is therefore nobody's,
whatever the board's clock says.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import asyncssh

from edgesearch.board_eval.remote._link import Link, Outcome
from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.board_eval.remote._text import last_line, printable
from edgesearch.errors import BoardLost, BoardUnfit

__all__ = ["board_cache_folder", "forget_failures", "is_locked", "lock_file", "private_folder", "run_in", "sweep"]

_KEEPER = "edgesearch-keeper"
_END_S = 8.0
#: Bytes that are read of a keeper which does not start.
_MOST_SAID = 4096

#: `end FOLDER` ends every program that was given the folder; not this one, nor the shell that it was started by.
_END = """
end() {
    for place in $(grep -lsF -- "$1" /proc/[0-9]*/cmdline); do
        pid=${place#/proc/}
        pid=${pid%/cmdline}
        [ "$pid" = "$$" ] || [ "$pid" = "$PPID" ] || kill -9 "$pid" 2>/dev/null
    done
}
"""

#: $1: the folder.
_KEEP = (
    _END
    + """
trap '' HUP PIPE TERM
umask 077
mkdir -m 700 -- "$1" || exit 1
echo ready
while read -r line; do :; done
end "$1"
rm -rf -- "$1" 2>/dev/null
[ ! -e "$1" ] || { sleep 1; end "$1"; rm -rf -- "$1"; }
"""
)

#: $1: the folder; then the program and its arguments.
_RUN = """
cd -- "$1" || exit 1
ulimit -c 0
shift
exec "$@"
"""

#: $1: what the names of private folders begin with; $2: the keeper's name; $3: "force" ends living jobs too.
_SWEEP = (
    _END
    + """
for folder in "$1"*; do
    [ -d "$folder" ] && [ ! -L "$folder" ] && [ -O "$folder" ] || continue
    keeper=
    for place in $(grep -lsF -- "$folder" /proc/[0-9]*/cmdline); do
        ! grep -qsF -- "$2" "$place" || keeper=yes
    done
    if [ -n "$keeper" ] && [ "$3" != force ]; then
        echo "kept $folder"
        continue
    fi
    end "$folder"
    rm -rf -- "$folder" && echo "removed $folder"
done
"""
)

#: $1: the lock file. Exit code 0: it is free; 1: a program holds it; 2: the board cannot tell.
_LOCKED = """
[ -e "$1" ] || exit 0
[ -f "$1" ] && [ -r "$1" ] && command -v flock >/dev/null 2>&1 || exit 2
exec 9<"$1"
flock -n 9 && exit 0
sleep 1
flock -n 9 || exit 1
"""

#: $1: the cache.
_FORGET = """
rm -f -- "$1"/failed-*
"""


def board_cache_folder(settings: BoardSettings) -> str:
    """Where files are kept for later jobs of the same user of the board."""
    return f"{settings.folder}/edgesearch-cache.{settings.user}"


def lock_file(settings: BoardSettings) -> str:
    """What every driver that names the same `folder` locks while it has the DPU."""
    return f"{settings.folder}/edgesearch-board.lock"


def _prefix(settings: BoardSettings) -> str:
    return f"{settings.folder}/edgesearch-job.{settings.user}."


@contextlib.asynccontextmanager
async def private_folder(link: Link) -> AsyncIterator[str]:
    """A folder on the board that only this user may enter; it goes with the block, or with the connection.

    Raises BoardLost where none is made, BoardUnfit where the login shell prints of its own: what a command gives cannot be told
    from that.
    """
    path = _prefix(link.settings) + secrets.token_hex(16)
    keeper = await link.start(["sh", "-c", _KEEP, _KEEPER, path])
    try:
        async with asyncio.timeout(link.settings.timeout_s):
            answer = await _first_line(keeper)
            if not answer:
                words = last_line(await keeper.stderr.read(_MOST_SAID))
                raise BoardLost(f"board {link.settings.name!r} makes no folder in {link.settings.folder}: {words}")
        if answer != b"ready\n":
            printed = printable(answer.removesuffix(b"ready\n").decode(errors="replace"))
            raise BoardUnfit(
                f"board {link.settings.name!r}: the login shell of {link.settings.user!r} prints {printed!r} before each "
                "command; let it print in interactive shells alone (its .bashrc there), or nothing"
            )
        yield path
    finally:
        await _end(keeper)


async def _first_line(keeper: asyncssh.SSHClientProcess[bytes]) -> bytes:
    """Up to its first line's end, or more where more came at once; b"" where it and its standard error ended."""
    line = b""
    while b"\n" not in line and (piece := await keeper.stdout.read(_MOST_SAID - len(line))):
        line += piece
    return line


async def _end(keeper: asyncssh.SSHClientProcess[bytes]) -> None:
    """Let the keeper remove the folder, and wait for it; where the connection is gone it does so by itself."""
    with contextlib.suppress(OSError, asyncssh.Error):
        async with asyncio.timeout(_END_S):
            keeper.stdin.write_eof()
            await keeper.wait_closed()
    keeper.close()


async def run_in(link: Link, folder: str, *words: str, **options: object) -> Outcome:
    """Run a program in a private folder; it is ended with the folder. Options are those of `Link.run`."""
    return await link.run(["sh", "-c", _RUN, "edgesearch-job", folder, *words], **options)  # type: ignore[arg-type]


async def sweep(link: Link, *, force: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove the folders of dead drivers, with `force` those of living ones too: (removed, kept), their names."""
    words = [_prefix(link.settings), _KEEPER, "force" if force else ""]
    outcome = await link.run(["sh", "-c", _SWEEP, "edgesearch-sweep", *words])
    lines = [printable(line).partition(" ") for line in outcome.output.decode(errors="replace").splitlines()]
    return tuple(name for what, _, name in lines if what == "removed"), tuple(name for what, _, name in lines if what == "kept")


async def is_locked(link: Link) -> bool | None:
    """Whether a program holds the board's lock, a moment after what is ended now; None: the board cannot tell."""
    outcome = await link.run(["sh", "-c", _LOCKED, "edgesearch-lock", lock_file(link.settings)])
    return {0: False, 1: True}.get(-1 if outcome.code is None else outcome.code)


async def forget_failures(link: Link) -> None:
    """Let the C++ runner be built again where it did not build."""
    await link.run(["sh", "-c", _FORGET, "edgesearch-forget", board_cache_folder(link.settings)])
