"""What a process started and left in /tmp goes when it is killed, of which it is told nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgesearch.files import Watcher, temporary_folder

#: Long enough for the watcher's own grace.
PATIENCE_S = 40.0

WORKER = """
import subprocess, sys, time
from pathlib import Path
from edgesearch.files import Watcher, temporary_folder

with temporary_folder("edgesearch-test-") as folder, Watcher(stop=["touch", sys.argv[1]]) as watcher:
    program = subprocess.Popen(["sh", "-c", sys.argv[2]], cwd=folder, start_new_session=True)
    watcher.group(program.pid)
    print(folder, program.pid, flush=True)
    time.sleep(600)
"""


def comes(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("program", ["while :; do sleep 0.1; done", "trap '' TERM; while :; do sleep 0.1; touch here; done"])
def test_what_a_killed_process_started_ends_and_its_folder_goes(tmp_path: Path, program: str) -> None:
    stopped = tmp_path / "stopped"
    with subprocess.Popen([sys.executable, "-c", WORKER, str(stopped), program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        name, number = worker.stdout.readline().split()
        folder, pid = Path(name), int(number)
        assert folder.is_dir()
        assert not is_gone(pid)
        worker.send_signal(signal.SIGKILL)
    assert comes(lambda: is_gone(pid))
    assert comes(lambda: not folder.exists())
    assert comes(stopped.exists)


def test_what_is_done_with_is_left_alone_and_no_process_stays(tmp_path: Path) -> None:
    """Nor is the watcher a child: a stage whose process has children is taken to be at work."""
    stopped, folder = tmp_path / "stopped", tmp_path / "folder"
    folder.mkdir()
    before = set(psutil.Process().children(recursive=True))
    with Watcher(folder=folder, stop=["touch", str(stopped)]) as watcher:
        watcher.group(os.getpgrp() + 10**6)
        assert set(psutil.Process().children(recursive=True)) == before
        assert comes(lambda: bool(watchers(folder)))
    assert comes(lambda: not watchers(folder))
    assert folder.is_dir()
    assert not stopped.exists()
    with temporary_folder("edgesearch-test-") as kept:
        (kept / "file").write_text("content")
    assert not kept.exists()


def watchers(folder: Path) -> list[int]:
    found = psutil.process_iter(["cmdline"])
    return [p.pid for p in found if {"edgesearch-watcher", str(folder)} <= set(p.info["cmdline"] or ())]
