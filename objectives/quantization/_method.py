"""The ways to quantize after training."""

from __future__ import annotations

from typing import Literal, TypeAlias

Method: TypeAlias = Literal["vitis", "best"]
