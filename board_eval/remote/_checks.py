"""What is to be known of a board before it is relied on, one line each, with what to do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

from edgesearch.board_eval.remote._boards import Boards
from edgesearch.board_eval.remote._job import look_at_board
from edgesearch.board_eval.remote._report import BoardProbe
from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.board_eval.targets import BoardProfile, Fingerprint
from edgesearch.errors import BoardError

__all__ = ["Check", "check_board", "check_boards"]

#: Below it, images and results of a usual study may not fit.
_LEAST_FREE = 256 << 20
_BUILT_LATER = "the C++ runner is built with the board's g++ at the first measurement"
#: Boards that are entered at a time.
_SIDE_BY_SIDE = 16


@dataclass(frozen=True)
class Check:
    """`is_good` is None for what is worth knowing and no fault."""

    name: str
    is_good: bool | None
    text: str


def check_board(settings: BoardSettings) -> tuple[Check, ...]:
    """Enter the board and ask what it is and has; where it cannot be entered, that is the only line."""
    begin = time.monotonic()
    try:
        look = look_at_board(settings)
    except BoardError as error:
        return (Check("reachable", False, str(error)),)
    where = f"{settings.user} at {settings.host} port {settings.port}, {time.monotonic() - begin:.1f} s"
    reachable = Check("reachable", True, where)
    if look.probe is not None:
        return (reachable, *_of_probe(look.probe, settings.profile(), stands_in=look.stands_in))
    if look.stands_in:
        return (reachable, Check("runner", None, f"{look.problem}; {_BUILT_LATER}, and tells then what the board is"))
    return (reachable, Check("runner", False, look.problem))


def check_boards(
    boards: Boards, names: Sequence[str], *, limit_s: float | None = None
) -> Iterator[tuple[str, tuple[Check, ...]]]:
    """`check_board` of each name, side by side, in the order of the names: one that is dead does not hold up the others.

    No step of a look takes longer than `limit_s`, or than the board's own `timeout_s`. Where a board's table or key cannot be
    used, or there is none of that name, that is the only line.
    """

    def look(name: str) -> tuple[Check, ...]:
        try:
            settings = boards.board(name)
        except BoardError as error:
            return (Check("settings", False, str(error)),)
        if limit_s is not None:
            settings = settings.model_copy(update={"timeout_s": min(limit_s, settings.timeout_s)})
        return check_board(settings)

    yield from zip(names, _side_by_side(look, names), strict=True)


def _side_by_side(look: Callable[[str], tuple[Check, ...]], names: Sequence[str]) -> Iterator[tuple[Check, ...]]:
    """The looks in the order of the names. Nobody waits for the threads: a program that is interrupted ends at once."""
    looks: list[Future[tuple[Check, ...]]] = [Future() for _ in names]
    waiting = deque(zip(names, looks, strict=True))

    def work() -> None:
        while waiting:
            with suppress(IndexError):
                name, found = waiting.popleft()
                try:
                    found.set_result(look(name))
                except BaseException as error:
                    found.set_exception(error)

    for number in range(min(len(names), _SIDE_BY_SIDE)):
        Thread(target=work, name=f"edgesearch-board-{number}", daemon=True).start()
    return (found.result() for found in looks)


def _of_probe(probe: BoardProbe, profile: BoardProfile, *, stands_in: bool) -> Iterator[Check]:
    facts = probe.board
    yield _fingerprint(facts.fingerprint, profile)
    yield _vart(probe, stands_in=stands_in)
    yield _cores(facts.dpu_cores, facts.dpu_mhz, profile)
    free = f"{probe.free_bytes / 2**20:,.0f} MiB free"
    enough = probe.free_bytes >= _LEAST_FREE
    yield Check("space", enough, free if enough else f"{free}; make room, or name another folder of the board as folder")
    sensor = probe.power_sensor
    yield Check("power sensor", None if sensor is None else True, sensor or "not available; power is left out of measurements")
    if probe.temperature_c is not None:
        yield Check("temperature", True, f"{probe.temperature_c:g} degrees Celsius")


def _vart(probe: BoardProbe, *, stands_in: bool) -> Check:
    """VART for Python is needed only where Python is what runs; the C++ runner would not start without its libraries."""
    facts = probe.board
    if probe.vart_importable:
        what = f"Python {facts.python}" if facts.python else "the C++ runner"
        return Check("VART", True, f"{facts.vart or 'version not told'}, {what}")
    problem = probe.problem or "the board's Python does not import it"
    if stands_in:
        return Check("VART", None, f"{problem}, which is not needed: {_BUILT_LATER}")
    advice = "use the Python of the board's image (python = ...), or install Vitis AI's vart and xir"
    return Check("VART", False, f"{problem}; {advice}")


def _fingerprint(told: str | None, profile: BoardProfile) -> Check:
    ours = Fingerprint(profile.dpu.fingerprint)
    if told is None:
        text = f"the board does not tell it (xdputil query); its target {profile.name!r} has {ours}"
        return Check("fingerprint", None, text)
    theirs = Fingerprint.parse(told)
    if ours.accepts(theirs):
        return Check("fingerprint", True, f"{theirs}, that of its target {profile.name!r}")
    differing = "; ".join(theirs.differences(ours))
    advice = f"name a profile whose dpu has fingerprint {theirs} as target, or put the right DPU on the board"
    return Check("fingerprint", False, f"{theirs}, its target {profile.name!r} has {ours} ({differing}); {advice}")


def _cores(cores: int | None, mhz: float | None, profile: BoardProfile) -> Check:
    expected = f"{profile.cores} x {profile.dpu.name} at {profile.clock_mhz:g} MHz"
    if cores is None:
        return Check("DPU cores", None, f"the board does not tell them; its target {profile.name!r} has {expected}")
    clock = "" if mhz is None else f" at {mhz:g} MHz"
    if cores == profile.cores and (mhz is None or profile.has_clock(mhz)):
        return Check("DPU cores", True, f"{cores}{clock}")
    return Check("DPU cores", None, f"{cores}{clock}; predictions are for {expected}, those of its target {profile.name!r}")
