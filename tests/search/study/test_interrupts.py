"""A signal that came while nobody could be told is not forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_LOST = """
import os, signal, sys
from edgesearch.search.study import raise_if_interrupted, watch_interrupts

watch_interrupts()
raise_if_interrupted()

class Late:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

Late()  # Python prints what its end raises, and goes on
print("went on", flush=True)
try:
    raise_if_interrupted()
except KeyboardInterrupt:
    print("told", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_got_lost_is_raised_again(number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", _LOST, str(int(number))], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["went on", "told"], done.stderr
