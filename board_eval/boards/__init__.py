"""Boards that measure a network, simulated or real, and what is known of a network before it runs on one."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
