from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edgesearch.search.cluster._relay import LogKeeper, local_log, relayed, write_pieces


class Remote:
    """A keeper as a worker sees it; it may be away."""

    def __init__(self) -> None:
        self.keeper, self.is_away = LogKeeper(), False
        self.add = self

    def remote(self, log: str, piece: bytes) -> Any:
        if self.is_away:
            raise RuntimeError("the actor died")
        self.keeper.add(log, piece)


def test_the_drivers_log_becomes_the_workers(tmp_path: Path) -> None:
    theirs, ours, keeper = tmp_path / "worker.log", tmp_path / "logs" / "driver.log", Remote()
    with relayed(keeper, str(ours), str(theirs), every_s=0.05), theirs.open("w", buffering=1) as file:
        for number in range(20):
            file.write(f"epoch {number}\n")
            keeper.is_away = number in (5, 6, 7)
            time.sleep(0.03)
            write_pieces(keeper.keeper.take())
    write_pieces(keeper.keeper.take())
    assert ours.read_text() == theirs.read_text()


def test_a_worker_that_says_nothing_shows_that_it_lives_by_touching_its_log(tmp_path: Path) -> None:
    log, theirs, keeper = tmp_path / "driver.log", tmp_path / "worker.log", Remote()
    with relayed(keeper, str(log), str(theirs), every_s=0.05):
        time.sleep(0.3)
        assert keeper.keeper.take() == {}  # the stage has not begun
        theirs.touch()
        time.sleep(0.3)
        assert keeper.keeper.take() == {str(log): b""}
        time.sleep(0.3)
        assert keeper.keeper.take() == {}  # its process is frozen, say
        os.utime(theirs)
        time.sleep(0.3)
        pieces = keeper.keeper.take()
    assert pieces == {str(log): b""}
    write_pieces(pieces)
    first = log.stat().st_mtime_ns
    time.sleep(0.02)
    write_pieces(pieces)
    assert log.stat().st_mtime_ns > first


def test_a_worker_that_sees_the_drivers_folder_writes_there(tmp_path: Path) -> None:
    log, marker = str(tmp_path / "logs" / "a.log"), tmp_path / "marker"
    assert local_log(log, "") == log
    elsewhere = Path(local_log(log, str(marker)))
    assert elsewhere.name == "a.log"
    assert elsewhere != Path(log)
    elsewhere.parent.rmdir()
    marker.touch()
    assert local_log(log, str(marker)) == log


def test_a_keeper_whom_nobody_asks_holds_the_latest(tmp_path: Path) -> None:
    keeper = LogKeeper()
    for number in range(3):
        keeper.add("a", bytes([number]) * (1 << 19))
    assert {log: (len(piece), piece[-1]) for log, piece in keeper.take().items()} == {"a": (1 << 20, 2)}
    assert keeper.take() == {}
