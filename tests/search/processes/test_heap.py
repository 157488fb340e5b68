"""A driver's large blocks go back to the system, whatever else was allocated meanwhile; a stage's stay with its process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Frees a block of 30 MiB, so that glibc keeps smaller ones from then on; then 20 of 4 MiB, with small ones that stay between.
_CODE = """
import ctypes, sys
from edgesearch.search.processes._heap import give_back_large_blocks

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


#: Faults of pages in ten rounds of taking, filling and freeing blocks of 40 and 4 MiB, behind a first one; MiB that are the
#: process's then, and after it gave back what it kept.
_STEPS = """
import ctypes, resource, sys
from edgesearch.objectives.training import give_back
from edgesearch.search.processes import prepare_process

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages, which some systems give unasked, are few

def step():
    places = [libc.malloc(size << 20) for size in (40, 4, 40, 4)]
    for place, size in zip(places, (40, 4, 40, 4)):
        ctypes.memset(place, 1, size << 20)
    for place in places:
        libc.free(place)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

if sys.argv[1] == "yes":
    prepare_process(1)
empty = resident()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
full = resident() - empty
give_back()
print(faults, full, resident() - empty)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_stage_keeps_the_blocks_of_a_step_for_the_next_one_until_it_gives_them_back() -> None:
    (kept, full, left), (without, *_) = (
        map(
            int, subprocess.run([sys.executable, "-c", _STEPS, told], capture_output=True, text=True, check=True).stdout.split()
        )
        for told in ("yes", "no")
    )
    assert kept < 2_000
    assert without > 100_000
    assert full > 80 > 8 > left  # MiB
