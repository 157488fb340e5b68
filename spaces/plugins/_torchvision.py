"""The one way into torchvision.

PyPI's torchvision is built against a CUDA torch. On a CPU-only torch its import stops, because the operators it registers
kernels for were never defined. This project uses none of them, so it defines their schemas, only when the import failed, and
imports again; likewise where a user's own code imports it. And one of torchvision's operators of detection imports torch's
compiler, a second and 70 MB of it, for a question that it asks when it is called; here the compiler is imported when that
question is asked.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

#: Of torch's compiler, what torchvision imports.
_COMPILER = "torch._dynamo.utils"
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


@contextmanager
def _compiler_when_asked() -> Iterator[None]:
    """Within it, `_COMPILER` is a stand-in: the module itself comes for whoever wants more of it than torchvision does."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(_COMPILER)

    def itself(name: str) -> Any:
        if name.startswith("__"):  # the import system asks every module for these
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)

    def is_compile_supported(device: Any) -> Any:
        return itself("is_compile_supported")(device)

    vars(stand_in).update(__getattr__=itself, is_compile_supported=is_compile_supported)
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def import_torchvision(submodule: str = "") -> ModuleType:
    """torchvision, or one of its submodules (`import_torchvision("models")`), on any torch."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    with _compiler_when_asked():
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if not _is_of_operators(error):
                raise
        _define_missing_operators()
        return importlib.import_module(name)


def with_torchvision(action: Callable[[], T]) -> T:
    """What `action`, which may import torchvision, returns; once more where it fails as torchvision does on another torch."""
    try:
        return action()
    except Exception as error:
        if not _is_of_operators(error):
            raise
    import_torchvision()
    return action()


def _is_of_operators(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "torchvision::" in str(error)
