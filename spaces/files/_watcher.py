"""What is to end with a process that may be killed: a program that it started, a container, a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Watcher", "temporary_folder"]

#: Seconds that a program has to end by itself once it was told to.
_GRACE_S = 5
#: $1: the seconds; $2: the folder, or nothing; further: the command that stops a container. The shell goes into the background,
#: so that it is no child of whom it watches: a stage whose process has children is taken to be at work. Its input ends when the
#: process does, however that ends. A container may begin after it was to be stopped, and a program write into its folder until
#: it is gone: both are done twice.
_SCRIPT = """
exec 3<&0
{
    grace=$1 folder=$2 group=
    shift 2
    while read -r word number; do
        case $word in
            done) exit 0 ;;
            group) group=$number ;;
        esac
    done
    [ $# -eq 0 ] || "$@" &
    if [ -n "$group" ]; then
        kill -s TERM -- "-$group"
        waited=0
        while [ "$waited" -lt "$grace" ] && kill -s 0 -- "-$group"; do
            sleep 1
            waited=$((waited + 1))
        done
        kill -s KILL -- "-$group"
    fi
    [ -z "$folder" ] || rm -rf -- "$folder"
    sleep "$grace"
    [ $# -eq 0 ] || "$@" &
    sleep 2
    [ -z "$folder" ] || rm -rf -- "$folder"
} <&3 3<&- >/dev/null 2>&1 &
"""


class Watcher:
    """A program beside this process that outlives it: what it was told of ends when this one dies within the block.

    Where it cannot be started, nothing is watched.
    """

    def __init__(self, *, folder: Path | None = None, stop: Sequence[str] = ()) -> None:
        """`folder` is removed, `stop` the command that ends a container."""
        words = ["/bin/sh", "-c", _SCRIPT, "edgesearch-watcher", str(_GRACE_S), str(folder or ""), *stop]
        reading, self._pipe = os.pipe()
        path = f"{os.environ.get('PATH', '')}:/usr/bin:/bin"
        with contextlib.suppress(OSError):
            subprocess.run(words, stdin=reading, cwd="/", env={**os.environ, "PATH": path}, start_new_session=True, check=False)
        os.close(reading)

    def group(self, number: int) -> None:
        """Watch over a program by its process group, too."""
        self._tell(f"group {number}")

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._tell("done")
        os.close(self._pipe)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, f"{line}\n".encode())


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder, which goes with the block; soon, too, when this process is killed in it. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    with Watcher(folder=folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
