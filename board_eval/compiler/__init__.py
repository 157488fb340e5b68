"""The compiler: from a quantized Graph to the code, the parameters and the addresses that a DPU runs."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
