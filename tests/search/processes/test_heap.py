"""A driver's large blocks go back to the system, whatever lies between them; a stage's stay with its process, whole."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from edgesearch.search.processes import with_whole_blocks

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


#: By how many MiB a process grows in thirty rounds, behind a first one, of blocks as torch asks for them: of 1 MiB each, at a
#: multiple of 64 bytes, some forty in line, of which about twenty are there at a time, among small ones that stay for longer.
_ROUNDS = """
import ctypes
from edgesearch.search.processes import prepare_process

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
small = []

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

def step():
    large = []
    for number in range(40):
        place = ctypes.c_void_p()
        libc.posix_memalign(ctypes.byref(place), 64, 1 << 20)
        ctypes.memset(place, 1, 1 << 20)
        large.append(place)
        if number % 2:
            libc.free(large.pop(0))
        small.append([libc.malloc(size) for size in (24, 40, 56, 72)])
        if len(small) > 60:
            for each in small.pop(0):
                libc.free(each)
    for place in large:
        libc.free(place)

prepare_process(1)
step()
before = resident()
for _ in range(30):
    step()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_blocks_that_a_stage_frees_are_whole_for_the_next_ones_of_their_size() -> None:
    whole, usual = (
        int(subprocess.run([sys.executable, "-c", _ROUNDS], capture_output=True, text=True, check=True, env=each).stdout)
        for each in (with_whole_blocks(os.environ), os.environ)
    )
    assert whole < 30  # 53 without, with glibc 2.36
    assert whole <= usual


def test_what_an_environment_says_of_glibc_counts() -> None:
    assert with_whole_blocks({"A": "1"})["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
    own = with_whole_blocks({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"})["GLIBC_TUNABLES"]
    assert own.split(":")[-1] == "glibc.malloc.tcache_count=3"
