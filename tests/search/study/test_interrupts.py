"""A signal that came while nobody could be told is not forgotten, and a command leaves no trace in its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from edgesearch.search.study import raise_if_interrupted, watch_interrupts

_LOST = """
import os, signal, sys
from edgesearch.search.study import raise_if_interrupted, watch_interrupts

class Late:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

with watch_interrupts():
    raise_if_interrupted()
    Late()  # Python prints what its end raises, and goes on
    print("went on", flush=True)
    try:
        raise_if_interrupted()
    except KeyboardInterrupt:
        print("told", flush=True)
"""
_BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", _BOTH)
def test_an_interrupt_that_got_lost_is_raised_again(number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", _LOST, str(int(number))], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["went on", "told"], done.stderr


@pytest.mark.parametrize("number", _BOTH)
def test_what_was_there_before_is_there_again(number: signal.Signals) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("not while it is watched")

    signal.signal(number, own)
    with pytest.raises(KeyboardInterrupt), watch_interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) is own
    raise_if_interrupted()  # of the next run in this process, which nobody interrupted


@pytest.mark.parametrize("number", _BOTH)
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with watch_interrupts():
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
        raise_if_interrupted()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_command_in_another_thread_leaves_signals_alone() -> None:
    before, ended = [signal.getsignal(number) for number in _BOTH], []

    def work() -> None:
        with watch_interrupts():
            ended.append([signal.getsignal(number) for number in _BOTH])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [before]
