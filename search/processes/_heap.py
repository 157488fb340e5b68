"""Which freed memory a process keeps: a driver gives back what a look at networks took, a stage keeps what its steps take.

And how: without holes, as far as glibc can.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping

__all__ = ["give_back_large_blocks", "keep_freed_blocks", "with_whole_blocks"]

#: mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
#: Bytes from which a block is the system's own: weights of large layers. Smaller limits take a quarter more processor time.
_LARGE = 1 << 20
#: What glibc reads as a process begins: that it has no stores for small blocks, which keep them from joining their neighbours.
_TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"


def give_back_large_blocks() -> None:
    """Have this process give back every large block when it is freed.

    glibc does so by itself until a larger block is freed, and then keeps what is smaller than that one in a heap that any small
    block can keep from shrinking. With another C library nothing happens.
    """
    _set(_MMAP_THRESHOLD, _LARGE)


def keep_freed_blocks() -> None:
    """Have this process keep what it frees, for the next block of its kind.

    A training's every step takes the same large blocks. glibc gets each from the system and gives it back, and the system
    fills its pages with zeros, one after the other as they are touched (benchmarks/kept_memory.py). With another C library
    nothing happens.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, -1)


def with_whole_blocks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that keeps what it frees, and finds it whole again. What it says of glibc itself counts.

    torch's blocks begin at multiples of 64 bytes. glibc (before 2.38) cuts each out of one that is up to 96 bytes larger, and
    gives the cuttings to small objects, or to its stores for such. A block that is freed is then too small for the next one of
    its size, which is put elsewhere, and so on: the heap of a training grows far beyond what is alive in it. The cuttings are
    there for their block again where they are in no store.
    """
    own = environment.get("GLIBC_TUNABLES")
    return {**environment, "GLIBC_TUNABLES": f"{_TUNABLES}:{own}" if own else _TUNABLES}


def _set(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(option, value)
