"""Candidates, the space they are drawn from, and the networks behind their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgesearch.spaces._candidate import (
    DPU_CHANNELS,
    STUDENTS,
    Candidate,
    Distillation,
    Pruning,
    Quantization,
    Settings,
    Student,
    parse_candidate,
)
from edgesearch.spaces._space import Range, Space, StudentOverride, Suggester
from edgesearch.spaces._validation import explain

if TYPE_CHECKING:
    from edgesearch.spaces._architectures import build, source_fingerprint
    from edgesearch.spaces._torchvision import import_torchvision
    from edgesearch.spaces._weights import load_weights, weights_fingerprint

__all__ = [
    "DPU_CHANNELS",
    "STUDENTS",
    "Candidate",
    "Distillation",
    "Pruning",
    "Quantization",
    "Range",
    "Settings",
    "Space",
    "Student",
    "StudentOverride",
    "Suggester",
    "build",
    "explain",
    "import_torchvision",
    "load_weights",
    "parse_candidate",
    "source_fingerprint",
    "weights_fingerprint",
]

#: Names whose modules import torch; they are loaded when first asked for.
_LATE = {
    "build": "_architectures",
    "import_torchvision": "_torchvision",
    "load_weights": "_weights",
    "source_fingerprint": "_architectures",
    "weights_fingerprint": "_weights",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
