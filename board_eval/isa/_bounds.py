"""What instructions may ask of the DPUCZDX8G where the widths of their fields would let them ask for more."""

from __future__ import annotations

__all__ = ["ADDRESS_REACH", "MAX_SHIFT_BIAS", "MAX_TOKENS", "WINDOW_ROUNDS"]

#: Bytes behind a register that the addresses of instructions reach: 29 bits.
ADDRESS_REACH = 1 << 29
#: The largest shift of a bias to the left that AMD's simulator takes.
MAX_SHIFT_BIAS = 20
#: Tokens that may wait between two engines. A file with 74 has run on a ZCU104; the width of the counters is not known.
MAX_TOKENS = 64
#: Times that the rows of a window go through the banks: an instruction has one start address for each.
WINDOW_ROUNDS = 4
