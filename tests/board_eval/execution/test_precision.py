"""Precisions within `full_float32`, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from edgesearch.board_eval.execution._precision import full_float32

_CUDNN: Any = torch.backends.cudnn
_ONEDNN: Any = torch.backends.mkldnn


def precisions() -> list[str]:
    kinds = (_CUDNN.conv, _CUDNN.rnn, torch.backends.cuda.matmul, _ONEDNN.conv, _ONEDNN.matmul)
    return [kind.fp32_precision for kind in kinds]


def set_precisions(values: list[str]) -> None:
    kinds = (_CUDNN.conv, _CUDNN.rnn, torch.backends.cuda.matmul, _ONEDNN.conv, _ONEDNN.matmul)
    for kind, value in zip(kinds, values, strict=True):
        kind.fp32_precision = value


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = precisions()
    yield
    set_precisions(before)


@pytest.mark.parametrize(
    "allowed",
    [
        ["tf32", "tf32", "none", "none", "none"],  # as torch begins
        ["tf32", "tf32", "tf32", "bf16", "bf16"],
        ["ieee", "tf32", "ieee", "ieee", "none"],
        ["ieee", "ieee", "ieee", "ieee", "ieee"],
    ],
)
def test_nothing_is_rounded_within_and_all_is_as_it_was_afterwards(allowed: list[str]) -> None:
    set_precisions(allowed)
    with full_float32():
        assert not {"tf32", "bf16"} & set(precisions())
        with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):  # as the executor's depthwise convolutions need it
            assert not {"tf32", "bf16"} & set(precisions())
        with full_float32():
            pass
        assert not {"tf32", "bf16"} & set(precisions())
    assert precisions() == allowed
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert precisions() == allowed


def test_the_flag_of_old_is_as_it_was() -> None:
    for allowed in (True, False):
        _CUDNN.allow_tf32 = allowed
        with full_float32():
            assert not _CUDNN.allow_tf32
        assert _CUDNN.allow_tf32 is allowed
