from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from edgesearch.search.cluster._processes import descendants, is_frozen, is_of_package, is_running, kill, kill_family

_PARENT = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']);"
    "print('started', flush=True); time.sleep(600)"
)


@pytest.fixture
def parent() -> Iterator[psutil.Process]:
    """A process with a child."""
    with subprocess.Popen([sys.executable, "-S", "-c", _PARENT], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline()
        process = psutil.Process(started.pid)
        children = process.children()
        yield process
        for one in (*children, process):
            kill(one)


def eventually(look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not look() and time.monotonic() < deadline:
        time.sleep(0.01)
    return look()


def test_a_family_is_killed_whole(parent: psutil.Process) -> None:
    (child,) = descendants(parent)
    assert is_running(parent)
    assert is_running(child)
    kill_family(parent)
    assert eventually(lambda: not is_running(parent))  # a zombie, which nobody has waited for
    assert eventually(lambda: not is_running(child))


def test_a_stopped_process_is_frozen_and_runs(parent: psutil.Process) -> None:
    assert not is_frozen(parent)
    parent.send_signal(signal.SIGSTOP)
    assert eventually(lambda: is_frozen(parent))
    assert is_running(parent)


def test_one_that_is_gone_is_nothing_and_no_error() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as started:
        process = psutil.Process(started.pid)
    assert not is_running(process)
    assert not is_frozen(process)
    assert not is_of_package(process, json)
    assert descendants(process) == []
    kill(process)
    kill_family(process)


def test_a_program_of_a_package_is_one_of_its_files(parent: psutil.Process) -> None:
    assert not is_of_package(parent, json)
    (folder,) = json.__path__
    with subprocess.Popen([sys.executable, f"{folder}/tool.py"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tool:
        assert tool.stdin is not None
        assert eventually(lambda: is_of_package(psutil.Process(tool.pid), json))
        tool.stdin.write(b"{}")
