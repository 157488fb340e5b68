"""A family of students: a stem, two to four stages of blocks, pooling and a head.

Every network of the family is a chain of what the DPU runs well: convolutions with batch-norm and ReLU, additions, depthwise
convolutions, concats, max pools right behind a convolution. Its name says all of it and can be read back:

    staged 16 r3x16 r3x32/2 r3x64/2
           |  |     |
           |  |     three residual blocks of 32 channels, the first with stride 2
           |  three residual blocks of 16 channels
           stem: 3x3 convolution of 16 channels (16/2: stride 2; 16/4: patches of 4x4; 16k2: 2x2 without padding)

    c plain   r residual   b bottleneck   i inverted (i2x64e4k5: expansion 4, kernel 5)   f fire
    /2 stride   p max pool behind the stage's first block, which is then a plain one   pn the same, batch-norm knows of it
    max: max pool before the logits, else the average   h128: hidden layer of 128 neurons
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from edgesearch.settings import Settings, explain

__all__ = [
    "MOST_CHANNELS",
    "MOST_STAGES",
    "STEMS",
    "Block",
    "Downsampling",
    "NetworkStage",
    "Pooling",
    "Staged",
    "Stem",
    "StemWindow",
    "is_staged_name",
    "scaled",
    "sizes",
]

Stem: TypeAlias = Literal["3x3", "3x3/2", "4x4/4", "2x2"]
Block: TypeAlias = Literal["plain", "residual", "bottleneck", "inverted", "fire"]
Downsampling: TypeAlias = Literal["none", "stride", "pool", "pool_norm"]
Pooling: TypeAlias = Literal["average", "max"]


class StemWindow(NamedTuple):
    """What a stem's convolution reads, in pixels, and what the network's name says of it behind the channels."""

    kernel: int
    stride: int
    padding: int
    ending: str

    def out(self, size: int) -> int:
        """Pixels of a side behind it."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


STEMS: dict[Stem, StemWindow] = {
    "3x3": StemWindow(3, 1, 1, ""),
    "3x3/2": StemWindow(3, 2, 1, "/2"),
    "4x4/4": StemWindow(4, 4, 0, "/4"),
    "2x2": StemWindow(2, 1, 0, "k2"),
}
_LETTERS: dict[Block, str] = {"plain": "c", "residual": "r", "bottleneck": "b", "inverted": "i", "fire": "f"}
_ENDINGS: dict[Downsampling, str] = {"none": "", "stride": "/2", "pool": "p", "pool_norm": "pn"}
_PREFIX = "staged "
_STEM = re.compile(r"(\d+)(/2|/4|k2)?")
_STAGE = re.compile(r"([crbif])(\d+)x(\d+)(?:e(\d+))?(?:k(\d+))?(/2|pn?)?")
_HEAD = re.compile(r"h(\d+)")
_ROUND_TO = 8
MOST_STAGES = 4
#: Of a stage or a stem.
MOST_CHANNELS = 2048


def scaled(width: int, factor: float) -> int:
    """`width` channels times `factor`, rounded to a multiple of eight, at least eight."""
    return width if factor == 1.0 else max(_ROUND_TO, int(width * factor + _ROUND_TO / 2) // _ROUND_TO * _ROUND_TO)


class NetworkStage(Settings):
    """Blocks of one width at one resolution.

    With `down` the stage halves the image: its first block has stride 2, or is a plain convolution with a max pool behind it
    ("pool"), which the DPU computes in one pass. With "pool_norm" batch-norm goes by what that pool passes on (`PooledNorm`):
    the same operations, which train faster.
    """

    depth: int = Field(default=1, ge=1, le=64)
    #: Channels. The DPU computes in steps of its channel parallel (16 on a B4096): others cost as much as the next multiple.
    width: int = Field(ge=4, le=MOST_CHANNELS)
    block: Block = "residual"
    #: Inverted blocks only: channels of the depthwise convolution for each channel that the block reads.
    expansion: int = Field(default=4, ge=1, le=8)
    #: Of the depthwise convolution of inverted blocks.
    kernel: Literal[3, 5] = 3
    down: Downsampling = "none"

    @model_validator(mode="after")
    def _possible(self) -> NetworkStage:
        if self.block == "fire" and self.width % 2:
            raise ValueError(
                f"width = {self.width} with fire blocks, expected an even number: either half is one convolution's"
            )
        return self

    @property
    def pools(self) -> bool:
        """Whether it halves the image by a max pool."""
        return self.down in ("pool", "pool_norm")

    def canonical(self) -> NetworkStage:
        """The same stage with settings that have no effect at their defaults."""
        block: Block = "plain" if self.pools and self.depth == 1 else self.block
        own = {"expansion", "kernel"} if block == "inverted" else set()
        fields = self.model_dump(include={"depth", "width", "down"} | own)
        return NetworkStage.model_validate({**fields, "block": block})

    def __str__(self) -> str:
        own = f"e{self.expansion}" + (f"k{self.kernel}" if self.kernel != 3 else "") if self.block == "inverted" else ""
        return f"{_LETTERS[self.block]}{self.depth}x{self.width}{own}{_ENDINGS[self.down]}"


class Staged(Settings):
    """One network of the family."""

    stem: Stem = "3x3"
    #: Channels of the stem; None: as many as the first stage has.
    stem_width: int | None = Field(default=None, ge=4, le=MOST_CHANNELS)
    stages: tuple[NetworkStage, ...]
    #: Over the whole image before the logits.
    pooling: Pooling = "average"
    #: Neurons of a hidden layer before the logits; 0: none.
    head: int = Field(default=0, ge=0, le=8192)

    @field_validator("stages")
    @classmethod
    def _two_to_four(cls, stages: tuple[NetworkStage, ...]) -> tuple[NetworkStage, ...]:
        if not 2 <= len(stages) <= MOST_STAGES:
            raise ValueError(f"{len(stages)} given, expected 2 to {MOST_STAGES}")
        return stages

    @classmethod
    def parse(cls, name: str) -> Staged:
        """The network of a name such as "staged 16 r3x16 r3x32/2 r3x64/2"; raises ValueError quoting the word that is wrong."""
        words = name.removeprefix(_PREFIX).split()
        stem = _STEM.fullmatch(words[0]) if words else None
        if stem is None:
            raise ValueError(
                f"{name!r} has no stem; expected channels and stride after 'staged', as in 'staged 16 r3x16 r3x32/2'"
            )
        kinds: dict[str, Stem] = {window.ending: kind for kind, window in STEMS.items()}
        fields: dict[str, object] = {"stem": kinds[stem[2] or ""], "stem_width": int(stem[1])}
        stages: list[dict[str, object]] = []
        for word in words[1:]:
            stage, head = _STAGE.fullmatch(word), _HEAD.fullmatch(word)
            if stage is not None and "pooling" not in fields and "head" not in fields:
                stages.append(_stage_fields(stage))
            elif word == "max" and not {"pooling", "head"} & fields.keys():
                fields["pooling"] = "max"
            elif head is not None and "head" not in fields:
                fields["head"] = int(head[1])
            else:
                raise ValueError(
                    f"{word!r} in {name!r} is not understood; expected stages such as r3x32/2 or i2x64e4k5p "
                    "(c, r, b, i, f: plain, residual, bottleneck, inverted, fire), then max, then h128"
                )
        try:
            return cls.model_validate({**fields, "stages": stages})
        except ValidationError as error:
            raise ValueError(f"{name!r}: {explain(error)}") from error

    def __str__(self) -> str:
        canonical = self.with_stem_width()
        words = [f"{_PREFIX}{canonical.stem_width}{STEMS[canonical.stem].ending}", *map(str, canonical.stages)]
        words += ["max"] if canonical.pooling == "max" else []
        words += [f"h{canonical.head}"] if canonical.head else []
        return " ".join(words)

    def with_stem_width(self) -> Staged:
        """The same network with its stem's width filled in."""
        return self if self.stem_width is not None else self.model_copy(update={"stem_width": self.stages[0].width})

    def scaled(self, factor: float) -> Staged:
        """The network with every width times `factor`, rounded to multiples of eight."""
        if factor == 1.0:
            return self
        stages = tuple(stage.model_copy(update={"width": scaled(stage.width, factor)}) for stage in self.stages)
        stem = None if self.stem_width is None else scaled(self.stem_width, factor)
        return self.model_copy(update={"stages": stages, "stem_width": stem})

    @property
    def widest(self) -> int:
        """Channels of the widest of its stages and its stem."""
        return max(self.stem_width or 0, *(stage.width for stage in self.stages))

    def canonical(self, input_size: int) -> Staged:
        """The same network for square images of `input_size` pixels, settings without effect at their defaults.

        An image of one pixel is not halved any more, and its average is its maximum.
        """
        stages, size = [], STEMS[self.stem].out(input_size)
        for given in self.stages:
            stage = given if size > 1 else given.model_copy(update={"down": "none"})
            size = _after_stage(stage, size)
            stages.append(stage.canonical())
        pooling: Pooling = self.pooling if size > 1 else "average"
        whole = self.with_stem_width()
        return Staged(stem=whole.stem, stem_width=whole.stem_width, stages=tuple(stages), pooling=pooling, head=whole.head)


def _stage_fields(found: re.Match[str]) -> dict[str, object]:
    letter, depth, width, expansion, kernel, ending = found.groups()
    fields: dict[str, object] = {
        "block": {value: name for name, value in _LETTERS.items()}[letter],
        "depth": int(depth),
        "width": int(width),
        "down": {value: name for name, value in _ENDINGS.items()}[ending or ""],
    }
    if letter != "i" and (expansion or kernel):
        raise ValueError(f"{found[0]!r}: expansion (e) and kernel (k) belong to inverted blocks (i)")
    return fields | ({"expansion": int(expansion)} if expansion else {}) | ({"kernel": int(kernel)} if kernel else {})


def is_staged_name(name: str) -> bool:
    """Whether `name` is that of one network of the family, with its settings."""
    return name.startswith(_PREFIX)


def sizes(staged: Staged, input_size: int) -> list[int]:
    """Pixels of a side behind the stem and behind each stage, for the canonical form."""
    found = [STEMS[staged.stem].out(input_size)]
    for stage in staged.stages:
        found.append(_after_stage(stage, found[-1]))
    return found


def _after_stage(stage: NetworkStage, size: int) -> int:
    if stage.down == "none":
        return size
    return size // 2 if stage.pools else -(-size // 2)
