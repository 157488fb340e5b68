"""How far a quantized network's answers are from the float network's, as one number that no single image decides."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgesearch.objectives.quantization._positions import round_half_up

#: Networks answer images they were trained on with too much confidence: errors that would flip a new image leave the
#: probabilities of these alone. The reference is softened until its mean confidence is this.
_CONFIDENCE = 0.8
_HALVINGS = 20
_HOTTEST = 64.0


class OutputError:
    """Mean total variation between class probabilities, at a temperature that makes the reference unsure."""

    def __init__(self, reference: Tensor) -> None:
        self._scale = _scale_for(reference)
        self._target = F.softmax(reference * self._scale, 1)

    def __call__(self, logits: Tensor) -> float:
        """0 (equal) to 1 for logits (N, classes)."""
        return 0.5 * float((F.softmax(logits * self._scale, 1) - self._target).abs().sum()) / len(logits)


def _scale_for(logits: Tensor) -> float:
    """What to multiply logits with so that the mean of the largest probability is `_CONFIDENCE`; at most 1."""

    def confidence(scale: float) -> float:
        return float(F.softmax(logits * scale, 1).amax(1).mean())

    if logits.shape[1] < 2 or confidence(1.0) <= _CONFIDENCE:
        return 1.0
    low, high = 1 / _HOTTEST, 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if confidence(middle) > _CONFIDENCE else (middle, high)
    return low


def nearest(candidates: range, logits: Tensor, error: OutputError, bits: int) -> int:
    """The fix position of the output at which its probabilities are nearest; ties: the first."""
    return min(candidates, key=lambda fix: error(round_half_up(logits, fix, bits)))
