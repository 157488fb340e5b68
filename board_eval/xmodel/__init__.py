"""Xmodel files, read and written as Vitis AI's quantizer does."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
