"""Which freed memory a process keeps: a driver gives back what a look at networks took, a stage keeps what its steps take."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["give_back_large_blocks", "keep_freed_blocks"]

#: mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
#: Bytes from which a block is the system's own: weights of large layers. Smaller limits take a quarter more processor time.
_LARGE = 1 << 20


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


def _set(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(option, value)
