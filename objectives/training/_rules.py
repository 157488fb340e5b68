"""What a network asks of its training beside the recipe: the seam by which a network of a special kind uses the one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

__all__ = ["Part", "Rules"]


@dataclass(frozen=True)
class Part:
    """Parameters that are trained at `scale` times the recipe's rate."""

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0


class Rules(Protocol):
    """Rules of one network's training."""

    def parts(self) -> Sequence[Part]:
        """All that is trained of the network, each parameter in one part."""

    def begin(self, epoch: int) -> bool:
        """Make the network ready for `epoch` (from 0), which may be the first that is trained after a break.

        True where it is another function of its weights from this epoch on, so that a mean of weights begins anew.
        """
