"""Files that a board's runtime loads: made and checked, read, executed in the machine, timed."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
