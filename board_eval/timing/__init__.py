"""How long a graph takes: the DPU's instructions, their schedule, and the time of host and board."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
