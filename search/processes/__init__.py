"""Jobs in processes of this machine: what a job is, the server they are forked from, their signs of life, their memory."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
