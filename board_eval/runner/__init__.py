"""The programs that run on a board: they execute a compiled xmodel there and measure it."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
