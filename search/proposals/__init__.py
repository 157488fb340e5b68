"""Which candidate comes next: samplers, walks through a space, and the choice by expected gain per second."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
