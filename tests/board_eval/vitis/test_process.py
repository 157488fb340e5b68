"""A program of Vitis AI, when the process that waits for it is killed: by a fork server, for a hang, with its driver."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

WORKER = """
import sys
from pathlib import Path
from edgesearch.board_eval.vitis._process import Command, run_command

program, folder = sys.argv[1:3]
run_command(Command(["/bin/sh", "-c", program], Path(folder), stop=["touch", folder + "/stopped"]), log=None, timeout_s=600)
"""
#: Two processes, the second deaf to a polite word.
PROGRAM = "echo $$ >pids.part; (trap '' TERM; sleep 600) & echo $! >>pids.part; mv pids.part pids; wait"


def test_it_ends_with_its_container_when_who_waits_for_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, PROGRAM, str(tmp_path)]) as worker:
        while not (tmp_path / "pids").exists():
            assert worker.poll() is None
            time.sleep(0.1)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 2
        assert all(runs(pid) for pid in pids)
        worker.send_signal(signal.SIGKILL)
    end = time.monotonic() + 40
    while any(runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(runs(pid) for pid in pids)
    assert (tmp_path / "stopped").exists()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
