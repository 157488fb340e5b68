"""Instructions of the DPUCZDX8G, ISA 1: typed, encoded, decoded and printed."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
