"""Tests that an implementation of a seam must pass: subclass the contract, say how yours is made, and let pytest collect it.

from edgesearch.testing import BoardContract

class TestMyBoard(BoardContract):
def make(self): return MyBoard()
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
