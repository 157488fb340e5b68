"""One driver per study, agreed on in the database, whatever happens to the holder."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from edgesearch.errors import StudyError
from edgesearch.search.study import hold_lease, open_storage

HOLDER = """
import sys, time
from pathlib import Path
from edgesearch.search.study import hold_lease, open_storage
with hold_lease(open_storage(sys.argv[1]), sys.argv[2], folder=Path("/some/home"), heartbeat=0.2):
    print("held", flush=True)
    time.sleep(1000)
"""


@contextmanager
def holder(url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, url, name], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_the_second_is_told_who_holds_the_study(database: str, name: str) -> None:
    with (
        holder(database, name) as process,
        pytest.raises(StudyError, match=rf"process {process.pid} on .* in '/some/home' \(last sign of life \d+ s ago\)"),
        hold_lease(open_storage(database), name),
    ):
        pass


def test_studies_do_not_hinder_each_other(database: str, name: str) -> None:
    storage = open_storage(database)
    with hold_lease(storage, name), hold_lease(storage, f"{name} 2"), pytest.raises(StudyError), hold_lease(storage, name):
        pass
    with hold_lease(storage, name):
        pass


def test_a_killed_holder_is_taken_over_at_once(database: str, name: str) -> None:
    with holder(database, name) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold_lease(open_storage(database), name) as lease:
            lease.beat()


@pytest.mark.parametrize("clock", ["as it was", "set by an hour", "of an earlier version"])
def test_a_living_holder_is_known_whatever_the_time_of_day_is(name: str, clock: str, tmp_path: Path) -> None:
    """The system tells when a process began by the time of day as it is now."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    with holder(url, name), pytest.MonkeyPatch.context() as patch:
        storage = open_storage(url)
        if clock == "of an earlier version":
            with storage.engine.begin() as connection:
                connection.execute(
                    text(f"UPDATE edgesearch_leases SET process_started = process_started + {psutil.boot_time()}")
                )
        if clock == "set by an hour":
            created, booted = psutil.Process.create_time, psutil.boot_time
            patch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
            patch.setattr(psutil, "boot_time", lambda: booted() + 3600)
        with pytest.raises(StudyError, match="is being run"), hold_lease(storage, name):
            pass


def test_a_holder_that_stands_still_is_taken_over_and_stops(database: str, name: str) -> None:
    with holder(database, name) as process:
        process.send_signal(signal.SIGSTOP)
        storage = open_storage(database)
        age = "heartbeat = '2020-01-01 00:00:00'"
        with storage.engine.begin() as connection:
            connection.execute(text(f"UPDATE edgesearch_leases SET {age} WHERE study_name = :name"), {"name": name})
        with hold_lease(storage, name) as lease:
            process.send_signal(signal.SIGCONT)
            lease.beat()
        with hold_lease(storage, name, heartbeat=0.05) as lease:  # the one that woke did not take it back
            lease.beat()


def test_a_holder_elsewhere_is_alive_as_long_as_it_gives_signs_of_life(database: str, name: str) -> None:
    storage = open_storage(database)
    with hold_lease(storage, name, heartbeat=1000):
        with storage.engine.begin() as connection:
            connection.execute(text("UPDATE edgesearch_leases SET machine = 'another', process = 1"))
        with pytest.raises(StudyError, match="is being run"), hold_lease(storage, name):
            pass


@pytest.mark.slow
def test_of_many_that_find_a_dead_holder_one_takes_over(database: str, name: str, tmp_path: Path) -> None:
    with holder(database, name):
        pass
    several = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, database, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(3)
    ]
    try:
        firsts = [p.stdout.readline() for p in several if p.stdout is not None]  # "" from those that were refused
        assert sorted(firsts) == ["", "", "held\n"]
    finally:
        for process in several:
            process.kill()
            process.communicate()
