"""Vitis AI's own tools, where they are installed or in their container: found, run, and their results checked."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
