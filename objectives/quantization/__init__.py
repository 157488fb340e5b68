"""Quantization inside the DPU's arithmetic: PTQ as Vitis AI does it, PTQ that loses less, QAT, and float16 for analysis."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
