"""Trainings that stop early: what a rung foretells, and which trainings go on."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
