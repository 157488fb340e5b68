"""Files on the board by their SHA-256: pushed once, checked on every use.

A file is written into the job's private folder, compared with its checksum there, and only then linked into the cache: a
half-written one is never under a checksum's name. A job takes files by links too, so that what the cache drops stays in jobs
that use it.
"""

from __future__ import annotations

import hashlib

from edgesearch.board_eval.remote._folders import board_cache_folder
from edgesearch.board_eval.remote._link import Link
from edgesearch.errors import BoardLost

__all__ = ["place_file", "trim_cache"]

_UNUSABLE, _ABSENT, _FULL, _DAMAGED = 10, 11, 12, 13
#: KiB that a push leaves free for the job's results.
_SPARE = 16 << 10

#: $1: the cache; $2: the job's folder; $3: the checksum; $4: the file's name in the job's folder.
_TAKE = """
umask 077
mkdir -m 700 -- "$1" 2>/dev/null
[ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && chmod 700 "$1" || exit 10
ln -- "$1/$3" "$2/$4" 2>/dev/null || exit 11
if [ "$(sha256sum <"$2/$4" | cut -c1-64)" != "$3" ]; then
    rm -f -- "$1/$3" "$2/$4"
    exit 11
fi
touch -c -- "$1/$3"
"""

#: Further: $5: KiB that must be free. The file comes through the standard input.
_PUT = """
umask 077
free() { df -Pk "$2" | awk 'NR == 2 {print $4}'; }
ls -1tr "$1" | while read -r old; do
    [ "$(free "$@")" -lt "$5" ] || break
    rm -f -- "$1/$old"
done
left=$(free "$@")
if [ "$left" -lt "$5" ]; then
    echo "$left KiB are free where $5 are needed" >&2
    exit 12
fi
cat >"$2/$4" || exit 12
[ "$(sha256sum <"$2/$4" | cut -c1-64)" = "$3" ] || exit 13
chmod 500 "$2/$4"
ln -- "$2/$4" "$1/$3" 2>/dev/null || true
"""

#: $1: the cache; $2: most bytes. Newest first, files beyond the limit go.
_TRIM = """
cd -- "$1" 2>/dev/null || exit 0
ls -lnt | awk -v most="$2" '$1 ~ /^-/ {sum += $5; if (sum > most) print $NF}' | while read -r old; do rm -f -- "./$old"; done
"""


async def place_file(link: Link, folder: str, name: str, content: bytes) -> bool:
    """Put `content` into a private folder as `name`; returns whether it had to be pushed.

    Raises BoardLost when the board's disk is full, the file arrives damaged, or somebody else owns the cache's folder.
    """
    settings, checksum = link.settings, hashlib.sha256(content).hexdigest()
    where = [board_cache_folder(settings), folder, checksum, name]
    taken = await link.run(["sh", "-c", _TAKE, "edgesearch-take", *where])
    if taken.code == 0:
        return False
    if taken.code != _ABSENT:
        raise BoardLost(
            f"board {settings.name!r}: {where[0]} is no folder of {settings.user!r}, or {settings.folder} cannot be used "
            f"({taken.said}); remove it there, or give the board another folder"
        )
    needed = str((len(content) >> 10) + _SPARE)
    put = await link.run(["sh", "-c", _PUT, "edgesearch-put", *where, needed], data=content)
    if put.code == 0:
        return True
    size = f"{len(content) / 2**20:.1f} MiB"
    if put.code == _DAMAGED:
        raise BoardLost(f"board {settings.name!r} received {name} ({size}) damaged: its checksum there is another")
    raise BoardLost(f"board {settings.name!r} has no room for {name} ({size}) in {settings.folder}: {put.said}")


async def trim_cache(link: Link) -> None:
    """Drop what was not used for longest, until the rest is within the board's `cache_mib`."""
    most = link.settings.cache_mib << 20
    await link.run(["sh", "-c", _TRIM, "edgesearch-trim", board_cache_folder(link.settings), str(most)])
