"""Which runner a job takes: the C++ one where the board's own g++ builds it against the board's VART, else the Python one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from edgesearch.board_eval.remote._cache import place_file
from edgesearch.board_eval.remote._folders import board_cache_folder, run_in
from edgesearch.board_eval.remote._link import Link, Outcome
from edgesearch.board_eval.remote._text import last_line
from edgesearch.board_eval.runner import CPP_NAME, PYTHON_NAME, build_command, runner_cpp_source, runner_source
from edgesearch.errors import BoardLost, BoardUnfit

__all__ = ["Runner", "choose_runner", "probing_runner"]

_BUILT = "run_on_board"
_UNBUILT, _FULL, _FAILS, _NO_COMPILER = 11, 12, 14, 15

#: A build is kept under the checksum of its source and of the board's VART, and carries its own checksum in its name.
_KEY = """
key=$3-$(cat /usr/lib/libvart-runner.so* /usr/lib/*/libvart-runner.so* /usr/local/lib/libvart-runner.so* 2>/dev/null \\
    | sha256sum | cut -c1-16)
"""

#: $1: the cache; $2: the job's folder; $3: the source's checksum.
_FIND = (
    _KEY
    + """
for built in "$1/built-$key-"*; do
    [ -f "$built" ] || continue
    ln -- "$built" "$2/run_on_board" || continue
    if [ "$(sha256sum <"$built" | cut -c1-64)" = "${built##*-}" ]; then
        touch -c -- "$built"
        exit 0
    fi
    rm -f -- "$built" "$2/run_on_board"
done
if [ -f "$1/failed-$key" ]; then
    cat "$1/failed-$key" >&2
    exit 14
fi
command -v g++ >/dev/null 2>&1 || exit 15
exit 11
"""
)

#: Further: the compiler and its arguments. What was built is started once, without arguments, which it refuses: libraries may
#: be missing that were there for the compiler. A full disk says nothing of the compiler, nor does one that was killed.
_BUILD = (
    _KEY
    + """
cache=$1 job=$2
shift 3
if "$@" >"$job/build.log" 2>&1; then
    chmod 500 "$job/run_on_board"
    "$job/run_on_board" >/dev/null 2>"$job/start.log" </dev/null
    if [ $? -lt 126 ]; then
        ln -- "$job/run_on_board" "$cache/built-$key-$(sha256sum <"$job/run_on_board" | cut -c1-64)" 2>/dev/null
        exit 0
    fi
    echo "error: what was built does not start: $(tail -n 1 "$job/start.log")" >"$job/build.log"
fi
grep -m 1 -i 'error' "$job/build.log" | sed "s|$job/||g" >"$job/failed"
cat "$job/failed" >&2
grep -q 'No space left' "$job/build.log" && exit 12
grep -qi 'killed' "$job/build.log" && exit 14
mv -f -- "$job/failed" "$cache/failed-$key"
exit 14
"""
)


@dataclass(frozen=True)
class Runner:
    """The words that start it on the board, and why it is not the C++ one, "" where it is or nobody asked for that.

    `stands_in`: it is the Python one, and measurements will have the C++ one, which is not built yet.
    """

    words: tuple[str, ...]
    note: str = ""
    stands_in: bool = False


async def choose_runner(link: Link, folder: str) -> Runner:
    """The runner that the board's settings ask for, in the job's folder. Raises BoardUnfit where only C++ will do and fails."""
    if link.settings.runner == "python":
        return await python_runner(link, folder)
    return await _chosen(link, folder, await _build(link, folder))


async def probing_runner(link: Link, folder: str) -> Runner:
    """The runner that measurements have, for a look at the board: nothing is built for it, which takes a board minutes."""
    if link.settings.runner == "python":
        return await python_runner(link, folder)
    found = await _find(link, folder)
    if found.code == _UNBUILT:
        return replace(await python_runner(link, folder), stands_in=True)
    return await _chosen(link, folder, _problem(found))


async def _chosen(link: Link, folder: str, problem: str) -> Runner:
    """The C++ runner, in the job's folder, or what the settings say where it has a problem."""
    if not problem:
        return Runner((f"{folder}/{_BUILT}",))
    if link.settings.runner == "cpp":
        raise BoardUnfit(
            f"board {link.settings.name!r} does not build the C++ runner ({problem}); mend that and run `edgesearch board "
            f'release {link.settings.name}`, after which it is built anew, or set runner = "auto": then the Python one runs'
        )
    return await python_runner(link, folder, f"the C++ runner does not build on the board: {problem}")


async def python_runner(link: Link, folder: str, note: str = "") -> Runner:
    """The Python runner in the job's folder."""
    await place_file(link, folder, PYTHON_NAME, runner_source())
    return Runner((link.settings.python, f"{folder}/{PYTHON_NAME}"), note)


async def _build(link: Link, folder: str) -> str:
    """Have the built runner in the job's folder; returns why there is none, or "".

    Raises BoardLost for a full disk: figures of the other runner, which measures otherwise, would take the place of this one's.
    """
    found = await _find(link, folder)
    if found.code in (0, _NO_COMPILER, _FAILS):
        return _problem(found)
    await place_file(link, folder, CPP_NAME, runner_cpp_source())
    compiler = build_command(f"{folder}/{CPP_NAME}", f"{folder}/{_BUILT}")
    built = await run_in(link, folder, "sh", "-c", _BUILD, "edgesearch-build", *_where(link, folder), *compiler)
    if built.code == _FULL:
        name, where = link.settings.name, link.settings.folder
        raise BoardLost(f"board {name!r} has no room to build the C++ runner in {where} ({last_line(built.errors)}); make room")
    return _problem(built)


async def _find(link: Link, folder: str) -> Outcome:
    return await link.run(["sh", "-c", _FIND, "edgesearch-find", *_where(link, folder)])


def _where(link: Link, folder: str) -> tuple[str, str, str]:
    of_what = hashlib.sha256(runner_cpp_source() + " ".join(build_command()).encode()).hexdigest()
    return board_cache_folder(link.settings), folder, of_what


def _problem(outcome: Outcome) -> str:
    """Why there is no built runner, or ""."""
    if outcome.code == 0:
        return ""
    return "it has no g++" if outcome.code == _NO_COMPILER else last_line(outcome.errors)
