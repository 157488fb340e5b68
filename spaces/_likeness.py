"""Which of the known students some weights are probably of, told by the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from edgesearch.spaces._architectures import build
from edgesearch.spaces._candidate import STUDENTS, TORCHVISION_STUDENTS, Student
from edgesearch.spaces._weights_file import without_prefix

__all__ = ["in_words", "likeliest"]

#: Widths that are tried beside 1.
_WIDTHS = (0.25, 0.5, 0.75, 1.5, 2.0)
#: Of a student's and of the file's tensors that must agree for the one to be of the other. The classifier may differ.
_LIKE = 0.7


def likeliest(state: Mapping[str, Tensor], input_size: int) -> tuple[float, str]:
    """The share of tensors that fit it, and the student in words: "resnet50" or "resnet18 with width = 0.5".

    It is one for images of that size; (0, "") where none is likely.
    """
    named = sorted(STUDENTS, key=lambda name: -_share(_names(state), set(_shapes(name, 1.0, "small", input_size))))
    best = (0.0, "")
    for name in named[:3]:  # those of other names have other tensors
        for width in (1.0, *_WIDTHS):
            for stem in ("imagenet", "small") if name in TORCHVISION_STUDENTS else ("small",):
                own = _shapes(name, width, stem, input_size)
                found = without_prefix(state, own)
                fitting = sum(tensor.shape == own[key].shape for key, tensor in found.items() if key in own)
                share = fitting / max(len(own), len(found))
                if share > best[0]:
                    best = share, in_words(name, width)
    return best if best[0] >= _LIKE else (0.0, "")


def in_words(architecture: str, width: float) -> str:
    """The student as a sentence names it."""
    return architecture + (f" with width = {width:g}" if width != 1.0 else "")


def _names(state: Mapping[str, Tensor]) -> set[str]:
    """The tensors' names and what remains of them without one wrapper or two."""
    return {".".join(name.split(".")[cut:]) for name in state for cut in range(3)}


def _share(found: set[str], own: set[str]) -> float:
    return len(found & own) / len(found | own)


@lru_cache(maxsize=256)
def _shapes(name: str, width: float, stem: Any, input_size: int) -> Mapping[str, Tensor]:
    """A student's tensors without their values. Counters of batches are left out, as old files do."""
    with torch.device("meta"):
        model = build(Student(architecture=name, width=width, stem=stem, input_size=input_size), channels=3, classes=10)
    return {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
