"""Large blocks go back to the system, whatever else was allocated meanwhile."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Frees a block of 30 MiB, so that glibc keeps smaller ones from then on; then 20 of 4 MiB, with small ones that stay between.
_CODE = """
import ctypes, sys
from edgesearch.search.engine._heap import give_back_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def block(size):
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    return place

if sys.argv[1] == "yes":
    give_back_large_blocks()
libc.free(block(30 << 20))
before = resident()
large, small = [], []
for _ in range(20):
    large.append(block(4 << 20))
    small.append(block(100 << 10))
for place in large:
    libc.free(place)
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_large_blocks_are_given_back_though_small_ones_lie_between_them() -> None:
    kept, left = (
        int(subprocess.run([sys.executable, "-c", _CODE, told], capture_output=True, text=True, check=True).stdout)
        for told in ("yes", "no")
    )
    assert left > 50
    assert kept < 10
