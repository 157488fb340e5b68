"""Who hangs: by signs of life in logs, and a clock that the test turns."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _clock import Clock

from edgesearch.objectives.stages._leases import file_lease
from edgesearch.search.processes._heartbeats import Heartbeats, beating


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "student.log"


def touch(log: Path, second: float) -> None:
    log.touch()
    os.utime(log, (second, second))


def looks(beats: Heartbeats, clock: Clock, *, until: float) -> list[float]:
    """Looks once a second; the seconds at which a job hung."""
    hung = []
    while clock.now < until:
        clock.now += 1.0
        hung += [clock.now] * len(beats.silent())
    return hung


def test_a_job_hangs_once_its_log_was_not_touched_for_so_long(clock: Clock, log: Path) -> None:
    beats = Heartbeats(10.0, clock=clock)
    beats.begin("a", str(log))
    touch(log, 1000.0)
    assert looks(beats, clock, until=11.0) == []
    touch(log, 500.0)  # whatever the clock of its machine says
    assert looks(beats, clock, until=25.0) == [23.0, 24.0, 25.0]
    beats.end("a")
    assert looks(beats, clock, until=40.0) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_job_that_has_not_begun_does_not_hang(clock: Clock, log: Path, earlier: bool) -> None:
    if earlier:
        touch(log, 1000.0)  # by an attempt before it
    beats = Heartbeats(10.0, clock=clock)
    beats.begin("a", str(log))
    assert looks(beats, clock, until=100.0) == []
    touch(log, 2000.0)
    assert looks(beats, clock, until=112.0) == [112.0]


def test_a_job_that_begins_at_once_hangs_where_it_does_not(clock: Clock, log: Path) -> None:
    beats = Heartbeats(10.0, clock=clock)
    beats.begin("a", str(log), at_once=True)
    assert not beats.has_begun("a")
    assert looks(beats, clock, until=12.0) == [11.0, 12.0]
    touch(log, 2000.0)
    assert beats.has_begun("a")
    assert looks(beats, clock, until=24.0) == [24.0]
    log.unlink()  # by a person
    touch(log.with_name("another"), 1.0)
    assert looks(beats, clock, until=50.0) == []


def test_a_stage_that_waits_for_another_studys_lives(log: Path) -> None:
    log.touch()
    lease, told = log.with_name("lease"), threading.Event()
    with file_lease(lease, waiting=print):

        def wait() -> None:
            with beating(log, every_s=0.1), file_lease(lease, waiting=lambda holder: told.set()):
                pass

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert told.wait(60)
        beats, deadline = {log.stat().st_mtime_ns}, time.monotonic() + 60
        while len(beats) < 5:  # the first tells nothing
            assert time.monotonic() < deadline
            time.sleep(0.05)
            beats.add(log.stat().st_mtime_ns)
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_driver_that_was_away_counts_anew(clock: Clock, log: Path) -> None:
    beats = Heartbeats(10.0, clock=clock)
    beats.begin("a", str(log))
    touch(log, 1000.0)
    assert beats.silent() == []
    clock.now = 3600.0  # all of the machine stood still
    assert beats.silent() == []
    assert looks(beats, clock, until=3612.0) == [3611.0, 3612.0]


def test_a_log_that_was_removed_tells_nothing(clock: Clock, log: Path) -> None:
    beats = Heartbeats(10.0, clock=clock)
    beats.begin("a", str(log))
    touch(log, 1000.0)
    looks(beats, clock, until=2.0)
    log.unlink()
    assert looks(beats, clock, until=100.0) == []


def test_a_log_is_touched_while_nothing_is_written(log: Path) -> None:
    touch(log, 1000.0)
    with beating(log, every_s=0.01):
        deadline = time.monotonic() + 30
        while log.stat().st_mtime == 1000.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    touch(log, 1000.0)
    time.sleep(0.1)
    assert log.stat().st_mtime == 1000.0


def is_touched(log: Path, stage: Callable[[threading.Event], object], *, waits: bool = False) -> bool:
    """Whether the log is touched while a stage is in the middle of what it does, which ends with an event."""
    over, moments = threading.Event(), []

    def look() -> None:
        for _ in range(2):  # the first time, what was done before the waiting may have touched it
            time.sleep(0.3)
            moments.append(log.stat().st_mtime_ns)
        over.set()

    touch(log, 1000.0)
    with beating(log, waits=waits, every_s=0.01):
        thread = threading.Thread(target=look)
        thread.start()
        stage(over)
        thread.join()
    return moments[0] != moments[1]


@pytest.mark.parametrize(
    ("stage", "waits", "touches"),
    [
        (lambda over: over.wait(), False, False),
        (lambda over: over.wait(), True, True),
        (lambda over: over.wait(0.01) or subprocess.run(["sleep", "1"], check=True), False, True),
        (lambda over: [None for _ in iter(over.is_set, True)], False, True),
    ],
    ids=["waits for nothing", "waits for a board", "waits for a program", "computes"],
)
def test_a_stage_that_waits_for_what_does_not_come_touches_nothing(
    log: Path, stage: Callable[[threading.Event], object], waits: bool, touches: bool
) -> None:
    assert is_touched(log, stage, waits=waits) == touches


def test_a_program_that_ran_before_is_no_sign_of_life(log: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        touched = is_touched(log, lambda over: over.wait())
        other.kill()
    assert not touched
