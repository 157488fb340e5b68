"""How a network is trained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgesearch.objectives.data import Augmentation, Mix, has_strength
from edgesearch.settings import Settings

__all__ = ["Recipe"]


#: Usual weight decay of optimizers that take it as part of the gradient.
_COUPLED_DECAY = {"sgd": 5e-4, "adam": 0.0}
_WITH_MOMENTUM = ("sgd", "muon")
#: The largest share of a training that the usual warm-up takes.
_WARM_UP = 0.25


class Recipe(Settings):
    """One training: `epochs` passes, linear warm-up over the first `warmup_epochs`, then `schedule` down to zero.

    warmup_epochs: where they are not given a quarter of the training at most.

    optimizer: "muon" makes orthogonal steps of the kernels between first and last layer, and trains the rest by AdamW at a
    tenth of the rate. lr is the highest learning rate. Weight decay is decoupled for "adamw" and "muon" (0.01 where it is not
    given), part of the gradient for "sgd" (0.0005) and "adam" (0), and never touches biases and batch-norm. clip_norm: the
    longest gradient of all parameters together; 0: any. average_epochs: the network that is kept is the mean of the weights
    over about so many last epochs; 0: the last weights. augmentation: "shift" moves images by up to an eighth, "flip_crop"
    moves and mirrors them, "alternate_flip" moves them by a sixteenth and mirrors each in every other epoch, "cutout" moves
    them by an eighth, mirrors them likewise and makes a square of a quarter of their side grey, "colour" moves and mirrors them
    so and changes brightness, contrast and saturation, "randaugment" moves and mirrors them so, turns or shears them and makes
    one change of their colours, "auto" takes what fits the data set. augmentation_strength: of changes of colour, turns and
    shears. mix: "mixup" lays another image of the batch over each, "cutmix" puts a part of one into it, by shares drawn from
    Beta(mix_alpha, mix_alpha) that labels are shared by, too. In a study [train] decides how images are shown to every network
    but the teacher. small_epochs: so many first epochs see the images at three quarters of their side, which takes little more
    than half the time; the network must take images of both sizes.
    whitened: the first layer tells windows of the training images apart with every direction counted alike; its kernels stay.
    identity: the kernels of other convolutions begin as identities, which serves networks without shortcuts. Both are for
    networks that start from random weights; those that do not begin with a convolution over the image, or compute its weight,
    have no whitened layer.
    mixed_precision: bfloat16 where "auto" finds that it pays, always or never.
    """

    #: A training of more would not end.
    MOST_EPOCHS: ClassVar[int] = 1_000_000

    epochs: int = Field(default=20, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(default=64, ge=2)
    optimizer: Literal["adamw", "sgd", "adam", "muon"] = "adamw"
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "linear"] = "cosine"
    clip_norm: float = Field(default=0.0, ge=0)
    average_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation | Literal["auto"] = "auto"
    augmentation_strength: float = Field(default=1.0, gt=0, le=2)
    mix: Mix = "none"
    mix_alpha: float = Field(default=1.0, gt=0, le=100)
    small_epochs: int = Field(default=0, ge=0)
    whitened: bool = False
    identity: bool = False
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"

    @property
    def may_use_bfloat16(self) -> bool:
        """Whether there are networks and machines on which it is computed in bfloat16."""
        return self.mixed_precision != "off"

    @property
    def unread(self) -> dict[str, str]:
        """Settings that decide nothing beside the others, by name, and why."""
        why = {}
        if self.optimizer not in _WITH_MOMENTUM:
            why["momentum"] = f"optimizer {self.optimizer!r} has none"
        if not has_strength(self.augmentation):
            why["augmentation_strength"] = f"augmentation {self.augmentation!r} changes neither colours nor shapes"
        if self.mix == "none":
            why["mix_alpha"] = "mix = 'none' mixes no images"
        return why

    @classmethod
    def usual(cls, optimizer: str, epochs: int) -> dict[str, float]:
        """Settings that follow from these two where they are not given, and are not the defaults then.

        As a part of the gradient, a decoupled optimizer's decay ruins a training. One that warms up to its end stops at the
        highest rate, and is worse for it.
        """
        decay = {"weight_decay": _COUPLED_DECAY[optimizer]} if optimizer in _COUPLED_DECAY else {}
        longest = _WARM_UP * epochs
        return decay | ({"warmup_epochs": longest} if 0 < longest < cls.model_fields["warmup_epochs"].default else {})

    @model_validator(mode="before")
    @classmethod
    def _with_usual(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optimizer, epochs = (given.get(name, cls.model_fields[name].default) for name in ("optimizer", "epochs"))
        if isinstance(epochs, float) and epochs.is_integer():  # as the field takes it
            epochs = int(epochs)
        return {**cls.usual(str(optimizer), epochs if isinstance(epochs, int) else cls.MOST_EPOCHS), **given}

    @model_serializer(mode="wrap")
    def _with_own(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Also what equals the default is written where nothing written would be read as the usual."""
        values: dict[str, Any] = written(self)
        return values | {name: getattr(self, name) for name in self.usual(self.optimizer, self.epochs)}

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Recipe:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"`warmup_epochs` is {self.warmup_epochs}, more than the {self.epochs} `epochs`")
        if self.small_epochs >= self.epochs:
            raise ValueError(f"`small_epochs` is {self.small_epochs} of {self.epochs} `epochs`; the last must see whole images")
        return self
