"""The driver's memory: what networks take while they are looked at goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["give_back_large_blocks"]

#: mallopt(3): M_MMAP_THRESHOLD.
_MMAP_THRESHOLD = -3
#: Bytes from which a block is the system's own: weights of large layers. Smaller limits take a quarter more processor time.
_LARGE = 1 << 20


def give_back_large_blocks() -> None:
    """Have this process give back every large block when it is freed.

    glibc does so by itself until a larger block is freed, and then keeps what is smaller than that one in a heap that any small
    block can keep from shrinking. With another C library nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
