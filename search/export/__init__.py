"""A trial as files: what a board, another program or a later day needs of it, tied together by a manifest."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
