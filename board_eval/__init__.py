"""The DPU's side: the graph, lowering from torch, integer execution, xmodel and ONNX files, schedule, timing and boards."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
