"""Jobs as tasks of Ray: an instance of our own on this machine, or the nodes of a cluster."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
