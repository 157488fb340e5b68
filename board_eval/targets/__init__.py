"""What a network is made for: the DPU's geometry and limits, and boards with their clock, cores and timing constants."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
