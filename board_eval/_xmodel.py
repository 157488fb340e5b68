"""The xmodel file (XIR, uncompiled): what vai_c_xir compiles for the board."""

from __future__ import annotations

from edgesearch.board_eval._xmodel_reader import read_xmodel
from edgesearch.board_eval._xmodel_writer import write_xmodel

__all__ = ["read_xmodel", "write_xmodel"]
