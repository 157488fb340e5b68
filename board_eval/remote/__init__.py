"""Boards in reach of SSH: their settings, the connection, and jobs of the runner on them."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
