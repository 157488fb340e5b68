"""SAVEs two at a time on both memory ports, as every file of AMD's compiler has them.

The first of a pair has the bit of its own engine among those it waits for alone, the second among those it gives to alone: the
second starts with the first, and what follows waits for the second. So tokens are taken by the first and given by the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgesearch.board_eval.isa import Engine, Instruction, Save

__all__ = ["in_pairs"]

_OWN = 1 << Engine.SAVE


def in_pairs(program: Sequence[Instruction]) -> list[Instruction]:
    """The program with SAVEs that follow each other in pairs, where the first gives no token and the second takes none."""
    out = list(program)
    saves = [number for number, one in enumerate(out) if isinstance(one, Save)]
    waiting: int | None = None
    for number in saves:
        one = out[number]
        if waiting is not None and one.dpdon == _OWN:
            first = out[waiting]
            assert isinstance(first, Save)
            assert isinstance(one, Save)
            out[waiting] = dataclasses.replace(first, dpdby=0)
            out[number] = dataclasses.replace(one, dpdon=0, hp_id=1)
            waiting = None
        else:
            waiting = number if one.dpdby == _OWN else None
    return out
