"""Groups of settings, and errors in them as one sentence each."""

from __future__ import annotations

from edgesearch.settings._base import Settings
from edgesearch.settings._explain import explain

__all__ = ["Settings", "explain"]
