"""What is known of candidates and stages before they run: metrics, seconds, and how sure both are."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
