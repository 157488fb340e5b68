"""How a network is trained as the DPU will compute it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgesearch.objectives.training import Recipe

__all__ = ["QatRecipe"]

#: With it `sgd` keeps what it learnt when batch-norm is frozen.
_CLIP_NORM = 1.0


class QatRecipe(Recipe):
    """Quantization-aware training: a `Recipe` with defaults of its own, without what does not go with integers.

    clip_norm: 1 for "sgd" where it is not given.
    stage_lrs: factors on `lr` for equal parts of the layers, first to last. small_epochs: 0, since positions are found for one
    size of images. mixed_precision: "auto" is float32, since bfloat16 holds no sums of the DPU's integers.
    """

    epochs: int = Field(default=5, ge=1, le=Recipe.MOST_EPOCHS)
    lr: float = Field(default=1e-3, gt=0, le=1)
    weight_decay: float = Field(default=1e-5, ge=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    stage_lrs: Annotated[tuple[Annotated[float, Field(ge=0, le=1000)], ...], Field(min_length=1)] = (1.0,)
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"

    @classmethod
    def usual(cls, optimizer: str, epochs: int) -> dict[str, float]:
        """As in `Recipe`, and a longest gradient for plain steps.

        Batch-norm makes gradients the shorter the longer weights are. Once it is a part of the weights it does no more, and
        steps of a rate that served until then may lead away for good.
        """
        return super().usual(optimizer, epochs) | ({"clip_norm": _CLIP_NORM} if optimizer == "sgd" else {})

    @property
    def may_use_bfloat16(self) -> bool:
        """Never."""
        return False

    @model_validator(mode="after")
    def _fits_integers(self) -> QatRecipe:
        if self.small_epochs:
            raise ValueError(
                "`small_epochs` is not for quantization-aware training, whose grids fit one size of images; leave it out"
            )
        if self.whitened or self.identity:
            raise ValueError("`whitened` and `identity` are for a training from random weights; leave them out of [qat]")
        if self.mixed_precision == "bf16":
            raise ValueError(
                "mixed_precision = 'bf16' is not for quantization-aware training, since bfloat16 rounds what the DPU computes "
                "exactly; use 'auto' or 'off'"
            )
        return self
