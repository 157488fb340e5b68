"""The instructions of a DPU program: one typed list, kept as columns so that timing a network stays cheap.

Equal instructions in a row are one entry with a `repeat`: the weight LOADs of one group of output channels, the rows of one
stripe, the CONVs of a stripe that neither follow a LOAD nor are the last to use their weights. Nothing else is merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from edgesearch.board_eval.isa import Engine


class Kind(IntEnum):
    """What an instruction does."""

    LOAD_WEIGHTS = 0  # one output channel
    LOAD_BIAS = 1
    LOAD_ROWS = 2  # one row of a feature map
    LOAD_IMAGE = 3  # one row of the input image
    SAVE = 4  # one row
    CONV = 5  # `pixel_parallel` rows of one group of output channels
    ALU = 6  # pooling or depthwise convolution of `alu_rows` rows
    ELEW = 7  # elementwise operation on `alu_rows` rows


ENGINE_OF = (
    Engine.LOAD,
    Engine.LOAD,
    Engine.LOAD,
    Engine.LOAD,
    Engine.SAVE,
    Engine.CONV,
    Engine.MISC,
    Engine.MISC,
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """`repeat` equal instructions; bytes, words and cycles are of one of them, repeated CONVs of the groups from `group` on.

    `after` are the positions in the program of what must have ended before the first of them starts, apart from what precedes
    it on its own engine.
    """

    kind: Kind
    layer: str
    stripe: int
    group: int
    repeat: int
    bytes: int
    words: int
    cycles: int
    after: tuple[int, ...]

    @property
    def engine(self) -> Engine:
        """The engine that executes it."""
        return ENGINE_OF[self.kind]

    def __str__(self) -> str:
        times = f" x{self.repeat}" if self.repeat > 1 else ""
        work = f"{self.cycles} cycles" if self.engine in (Engine.CONV, Engine.MISC) else f"{self.bytes} bytes"
        waits = f" after {', '.join(map(str, self.after))}" if self.after else ""
        return f"{self.kind.name}{times} {work} [{self.layer} stripe {self.stripe} group {self.group}]{waits}"


@dataclass
class Tape:
    """The columns of a program while it is written."""

    kind: list[int] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)
    stripe: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    repeat: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    after: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kind)

    def emit(
        self,
        kind: Kind,
        layer: int,
        after: tuple[int, ...],
        *,
        stripe: int = 0,
        group: int = 0,
        repeat: int = 1,
        bytes: int = 0,
        words: int = 0,
        cycles: int = 0,
    ) -> int:
        """Append one entry; returns its position."""
        self.kind.append(kind)
        self.layer.append(layer)
        self.stripe.append(stripe)
        self.group.append(group)
        self.repeat.append(repeat)
        self.bytes.append(bytes)
        self.words.append(words)
        self.cycles.append(cycles)
        self.after.append(after)
        return len(self.kind) - 1

    def instructions(self, names: tuple[str, ...]) -> Iterator[Instruction]:
        """The entries, typed; `names` are those of the layers."""
        rows = zip(self.kind, self.layer, self.stripe, self.group, self.repeat, strict=True)
        work = zip(self.bytes, self.words, self.cycles, self.after, strict=True)
        for (kind, layer, stripe, group, repeat), (size, words, cycles, after) in zip(rows, work, strict=True):
            yield Instruction(Kind(kind), names[layer], stripe, group, repeat, size, words, cycles, after)
