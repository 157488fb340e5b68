"""The front door: a study that is opened or loaded, run, read, chosen from and exported. The command line calls it."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
