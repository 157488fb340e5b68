"""Jobs for Vitis AI's Python packages: a network as plain torch code, and what came of it."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
