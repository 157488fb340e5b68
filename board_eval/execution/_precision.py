"""Float32 that is float32: TF32 and bfloat16 have no part in what a network answers.

A GPU's convolutions keep 10 of 23 bits of what they multiply unless cuDNN is told otherwise. Accuracies, and positions that are
found by what networks answer, would depend on the device then. Training may be as fast as it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TF32 = "tf32"


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 are computed in full precision, whatever the process allows elsewhere."""
    onednn: Any = torch.backends.mkldnn  # its members are made at run time
    cudnn: Any = torch.backends.cudnn
    kinds = (onednn.conv, onednn.matmul, torch.backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    allowed = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        cudnn.allow_tf32 = False  # not by kinds: `cudnn.flags`, which is used within, refuses kinds that were set one by one
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
        cudnn.allow_tf32 = allowed == (_TF32, _TF32)
        if (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) != allowed:
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = allowed
