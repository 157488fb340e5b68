"""Studies: opened, run, read, chosen from and exported. `edgesearch` on the command line calls the same."""

from __future__ import annotations

from importlib import metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = metadata.version("edgesearch")
