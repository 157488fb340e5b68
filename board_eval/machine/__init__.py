"""A DPU that executes programs instruction by instruction, and a checker of what a program must not do."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
