"""One job on a board: push what it lacks, run, fetch, leave nothing behind."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.remote._cache import place_file, trim_cache
from edgesearch.board_eval.remote._folders import forget_failures, is_locked, lock_file, private_folder, run_in, sweep
from edgesearch.board_eval.remote._link import Link, Outcome, connect
from edgesearch.board_eval.remote._report import (
    LARGEST_REPORT,
    BoardProbe,
    RunReport,
    logits_bytes,
    parse_logits,
    parse_report,
)
from edgesearch.board_eval.remote._run import BoardRun, Released
from edgesearch.board_eval.remote._runner import choose_runner, probing_runner
from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.board_eval.remote._sync import run_sync
from edgesearch.board_eval.remote._text import last_line
from edgesearch.errors import BoardBusy, BoardError, BoardLost, BoardUnfit

__all__ = ["BoardLook", "is_board_busy", "look_at_board", "probe_board", "release_board", "run_on_board"]

#: Seconds that the runner gets to say itself that the board stayed busy.
_LATE_S = 15.0
#: $1: the file; $2: how many bytes of it.
_FETCH = '[ -f "$1" ] && exec head -c "$2" "$1"'
#: Exit codes of a probe that did not come to its work: no such program, or one that lacks what it imports.
_NOT_STARTED = (1, 2, 126, 127)
#: The runner's first phase, and the one in which it has the board.
_WAITING, _MEASURING = b"waiting", b"checking"
_NETWORK, _IMAGES, _LOGITS, _RESULT = "network.xmodel", "images.npy", "logits.npy", "result.json"


def run_on_board(
    settings: BoardSettings,
    xmodel: bytes,
    images: npt.NDArray[np.int8],
    values: int,
    labels: npt.NDArray[np.integer] | None = None,
) -> BoardRun:
    """Run a compiled xmodel on int8 images (N, H, W, C), `values` int8 out of each, and measure it; with labels (N,) count.

    Raises BoardError when the board refuses the file, BoardLost when it is at fault, BoardUnfit where a person must mend it.
    """
    return run_sync(_run(settings, xmodel, images, values, labels))


@dataclass(frozen=True)
class BoardLook:
    """What a board that was entered is and has; None, and why, where the runner that would tell does not start there.

    `stands_in`: Python told it, or did not start, and measurements will have the C++ runner, which is not built yet.
    """

    probe: BoardProbe | None
    problem: str = ""
    stands_in: bool = False


def look_at_board(settings: BoardSettings) -> BoardLook:
    """Enter the board, and ask the runner that measures there, as far as that needs no building. Raises like `run_on_board`."""
    return run_sync(_look(settings))


def probe_board(settings: BoardSettings) -> BoardProbe:
    """What the board is and has. Raises like `run_on_board`."""
    look = look_at_board(settings)
    if look.probe is None:
        raise BoardUnfit(look.problem)
    return look.probe


def is_board_busy(settings: BoardSettings) -> bool:
    """Whether a program holds the board's lock now; False where the board cannot tell. Raises like `run_on_board`."""
    return run_sync(_is_busy(settings))


def release_board(settings: BoardSettings, *, force: bool = False) -> Released:
    """Remove what dead drivers left on the board and end their programs, which frees its lock; with `force` living ones' too.

    Raises like `run_on_board`.
    """
    return run_sync(_release(settings, force))


def _npy(images: npt.NDArray[np.int8]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(images))
    return file.getvalue()


async def _run(
    settings: BoardSettings,
    xmodel: bytes,
    images: npt.NDArray[np.int8],
    values: int,
    labels: npt.NDArray[np.integer] | None,
) -> BoardRun:
    count, contents = len(images), {_NETWORK: xmodel, _IMAGES: _npy(images)}
    async with connect(settings) as link, private_folder(link) as folder:
        # Each of these waits for the network most of the time.
        runner, pushed, _ = await asyncio.gather(
            choose_runner(link, folder),
            asyncio.gather(*(place_file(link, folder, name, content) for name, content in contents.items())),
            sweep(link),
        )
        await trim_cache(link)
        _check(await _start(link, folder, runner.words), settings)
        now = datetime.now(UTC)
        report = parse_report(await _fetch(link, f"{folder}/{_RESULT}", LARGEST_REPORT), RunReport, settings.name)
        values_told = await _fetch(link, f"{folder}/{_LOGITS}", logits_bytes(count, values))
    logits = parse_logits(values_told, count, values, settings.name)
    if report.images.count != count:
        raise BoardLost(f"board {settings.name!r} says it ran {report.images.count} images, and was given {count}")
    return BoardRun(
        report=report,
        images=images,
        logits=logits,
        correct=None if labels is None else int((logits.argmax(axis=1) == labels).sum()),
        measured_at=now.isoformat(timespec="seconds"),
        clock_skew_s=_skew(report.measured_at, now),
        pushed=sum(len(content) for content, new in zip(contents.values(), pushed, strict=True) if new),
        note=runner.note,
    )


async def _start(link: Link, folder: str, words: tuple[str, ...]) -> Outcome:
    """The runner from its first word to its end. Waiting for the board and measuring have `timeout_s` each."""
    settings, begun = link.settings, set[bytes]()

    def on_line(line: bytes, deadline: asyncio.Timeout) -> None:
        phase = line.strip()  # other lines are what libraries and shells have to say
        if phase in (_WAITING, _MEASURING) and phase not in begun and not deadline.expired():
            begun.add(phase)
            now = asyncio.get_running_loop().time()
            deadline.reschedule(now + settings.timeout_s + (_LATE_S if phase == _WAITING else 0.0))

    options = {
        "--images": f"{folder}/{_IMAGES}",
        "--logits": f"{folder}/{_LOGITS}",
        "--seconds": f"{settings.seconds:g}",
        "--repeats": str(settings.repeats),
        "--threads": str(settings.threads),
        "--lock": lock_file(settings),
        "--lock-timeout": f"{settings.timeout_s:g}",
        "--result": f"{folder}/{_RESULT}",
    }
    arguments = [word for pair in options.items() for word in pair]
    return await run_in(link, folder, *words, f"{folder}/{_NETWORK}", *arguments, on_line=on_line)


def _check(outcome: Outcome, settings: BoardSettings) -> None:
    """Raise what a runner's exit code means."""
    said = last_line(outcome.errors).removeprefix("error: ")
    name = settings.name
    match outcome.code:
        case 0:
            return
        case 2:
            raise BoardError(f"board {name!r} refused the network: {said}")
        case 3:
            raise BoardLost(f"board {name!r} is at fault: {said}")
        case 4:
            raise BoardBusy(f"board {name!r} is busy: {said.removeprefix('the board is busy: ')}")
        case 126 | 127:
            raise BoardUnfit(_not_started(outcome, settings))
        case 1 if _WAITING not in outcome.errors.splitlines():
            raise BoardUnfit(_not_started(outcome, settings))
        case None:
            raise BoardLost(f"the runner on board {name!r} was ended by a signal or with its connection; its last word: {said}")
        case code:
            raise BoardLost(f"the runner on board {name!r} crashed (exit code {code}): {said}")


async def _fetch(link: Link, path: str, limit: int) -> bytes:
    """A file of the job; at most `limit` bytes and one of it are read, and nothing of what is no file: a pipe never ends."""
    outcome = await link.run(["sh", "-c", _FETCH, "edgesearch-fetch", path, str(limit + 1)], limit=limit)
    name = path.rpartition("/")[2]
    if outcome.truncated:
        raise BoardLost(f"board {link.settings.name!r} gave a file {name} larger than the {limit} bytes that it can have")
    if outcome.code != 0:
        raise BoardLost(f"board {link.settings.name!r} gave no file {name}")
    return outcome.output


def _skew(measured_at: str | None, now: datetime) -> float | None:
    try:
        told = datetime.fromisoformat(measured_at or "")
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError, OSError):
        return None


async def _look(settings: BoardSettings) -> BoardLook:
    async with connect(settings) as link, private_folder(link) as folder:
        try:
            runner = await probing_runner(link, folder)
        except BoardUnfit as error:
            return BoardLook(None, str(error))
        outcome = await run_in(link, folder, *runner.words, "--probe", "--result", f"{folder}/{_RESULT}")
        if outcome.code in _NOT_STARTED:
            return BoardLook(None, _not_started(outcome, settings), runner.stands_in)
        _check(outcome, settings)
        content = await _fetch(link, f"{folder}/{_RESULT}", LARGEST_REPORT)
    return BoardLook(parse_report(content, BoardProbe, settings.name), stands_in=runner.stands_in)


def _not_started(outcome: Outcome, settings: BoardSettings) -> str:
    said = last_line(outcome.errors).removeprefix("error: ")
    return f"board {settings.name!r} cannot start the runner ({said}); is python = {settings.python!r} right?"


async def _is_busy(settings: BoardSettings) -> bool:
    async with connect(settings) as link:
        return await is_locked(link) is True


async def _release(settings: BoardSettings, force: bool) -> Released:
    async with connect(settings) as link:
        removed, kept = await sweep(link, force=force)
        await forget_failures(link)
        return Released(removed, kept, await is_locked(link))
