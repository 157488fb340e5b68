"""Quantization inside the DPU's arithmetic: PTQ as Vitis AI does it, PTQ that loses less, QAT, and float16 for analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesearch.objectives.quantization._fp16 import quantize_fp16
    from edgesearch.objectives.quantization._qat import train_qat
    from edgesearch.objectives.quantization._quantize import quantize

__all__ = ["quantize", "quantize_fp16", "train_qat"]

_MODULES = {"quantize": "_quantize", "quantize_fp16": "_fp16", "train_qat": "_qat"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
