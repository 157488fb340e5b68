"""The one way into torchvision.

PyPI's torchvision is built against a CUDA torch. On a CPU-only torch its import stops, because the operators it registers
kernels for were never defined. This project uses none of them, so it defines their schemas, only when the import failed, and
imports again.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType

#: Operators that torchvision 0.28 refers to while it is imported.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@lru_cache(maxsize=1)
def _define_missing_operators() -> object:
    from torch.library import Library

    library = Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library  # its definitions live as long as the object does


def import_torchvision(submodule: str = "") -> ModuleType:
    """torchvision, or one of its submodules (`import_torchvision("models")`), on any torch."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _define_missing_operators()
    return importlib.import_module(name)
