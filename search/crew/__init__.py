"""The boards of a run: which serves the next measurement, which are out, and looks at them."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
