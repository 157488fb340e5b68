"""`[space.student.staged]`: what of the staged family is searched.

[space.student.staged]
stages = [2, 3]
depth = { low = 1, high = 4 }
block = ["residual", "inverted"]
[space.student.staged.stage1]           # another choice for one of the stages
width = [16, 32]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from edgesearch.settings import Settings
from edgesearch.spaces._choices import Conditional, Parameter, Range, Value, check_values
from edgesearch.spaces._staged import MOST_STAGES, Block, Downsampling, NetworkStage, Pooling, Staged, Stem

__all__ = ["StagedChoices", "make_staged"]

#: A list of whole numbers, or a range of them whose step is 1 unless it is given.
Whole: TypeAlias = Annotated[tuple[int, ...], Field(min_length=1)] | Range
#: Widths that are searched unless they are given go up to this many times the DPU's channel parallel.
_WIDEST = 8
_PARALLEL = 16


class NetworkStageChoices(Settings):
    """Choices for one stage; None: those for every stage."""

    depth: Whole | None = None
    width: Whole | None = None
    block: Annotated[tuple[Block, ...], Field(min_length=1)] | None = None
    expansion: Whole | None = None
    kernel: Annotated[tuple[Literal[3, 5], ...], Field(min_length=1)] | None = None
    down: Annotated[tuple[Downsampling, ...], Field(min_length=1)] | None = None

    @field_validator("depth", "width", "expansion", mode="after")
    @classmethod
    def _whole(cls, choices: Whole | None) -> Whole | None:
        if not isinstance(choices, Range):
            return choices
        stepped = choices if choices.step is not None else choices.model_copy(update={"step": 1.0, "log": False})
        if not stepped.is_whole or choices.log:
            raise ValueError("a range of whole numbers has a whole low and step, and no log")
        return stepped


class StagedChoices(NetworkStageChoices):
    """Choices for the family's settings: for every stage, and for one of them where it has a table of its own."""

    stem: Annotated[tuple[Stem, ...], Field(min_length=1)] = ("3x3",)
    #: None: as wide as the first stage.
    stem_width: Whole | None = None
    stages: Annotated[tuple[Annotated[int, Field(ge=2, le=MOST_STAGES)], ...], Field(min_length=1)] = (3,)
    depth: Whole = Range(low=1, high=3, step=1)
    #: None: multiples of the channels that the DPU works on side by side.
    width: Whole | None = None
    block: Annotated[tuple[Block, ...], Field(min_length=1)] = ("plain", "residual")
    expansion: Whole = (4,)
    kernel: Annotated[tuple[Literal[3, 5], ...], Field(min_length=1)] = (3,)
    #: The first stage keeps the image's size unless its own table says otherwise.
    down: Annotated[tuple[Downsampling, ...], Field(min_length=1)] = ("stride",)
    pooling: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("average",)
    head: Whole = (0,)
    stage1: NetworkStageChoices = NetworkStageChoices()
    stage2: NetworkStageChoices = NetworkStageChoices()
    stage3: NetworkStageChoices = NetworkStageChoices()
    stage4: NetworkStageChoices = NetworkStageChoices()
    #: Instead of the space's.
    input_size: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    weights: str | None = None
    adapt: bool | None = None

    @field_validator("stem_width", "head", mode="after")
    @classmethod
    def _whole_too(cls, choices: Whole | None) -> Whole | None:
        return cls._whole(choices)

    @model_validator(mode="after")
    def _reachable(self) -> StagedChoices:
        for number in range(max(self.stages) + 1, MOST_STAGES + 1):
            if getattr(self, f"stage{number}") != NetworkStageChoices():
                raise ValueError(
                    f"stage{number} has choices, but stages = {list(self.stages)}; add {number} there or remove them"
                )
        return self

    @model_validator(mode="after")
    def _possible(self) -> StagedChoices:
        for name in ("stem_width", "head"):
            check_values(Staged, name, getattr(self, name), name)
        for table, choices in (("", self), *((f"stage{n}.", self._stage(n)) for n in range(1, MOST_STAGES + 1))):
            for name in ("depth", "width", "expansion"):
                check_values(NetworkStage, name, getattr(choices, name), f"{table}{name}")
        for number in range(1, max(self.stages) + 1):
            odd = [width for width in _ends(self._of_stage(number, "width")) if width % 2]
            if odd and "fire" in self._of_stage(number, "block"):
                raise ValueError(f"width = {odd[0]:g} with fire blocks, expected even numbers only")
        return self

    def resolved(self, *, channel_parallel: int) -> StagedChoices:
        """The choices with what is left to the DPU filled in."""
        return self if self.width is not None else self.model_copy(update={"width": _widths(channel_parallel)})

    def parameters(self) -> dict[str, Parameter]:
        """The parameters of the search, those of a stage where it exists, those of a block where it has them."""
        found: dict[str, Parameter] = {"stem": self.stem}
        if self.stem_width is not None:
            found["stem_width"] = self.stem_width
        found["stages"] = self.stages
        for number in range(1, max(self.stages) + 1):
            exists: dict[str, tuple[Value, ...]] = {"stages": tuple(count for count in self.stages if count >= number)}
            for name in ("width", "block", "depth", "expansion", "kernel", "down"):
                when = dict(exists)
                if name in ("expansion", "kernel"):
                    when[f"block{number}"] = ("inverted",)
                found[f"{name}{number}"] = Conditional(when=when, choices=self._of_stage(number, name))
        return found | {"pooling": self.pooling, "head": self.head}

    def _stage(self, number: int) -> NetworkStageChoices:
        return (self.stage1, self.stage2, self.stage3, self.stage4)[number - 1]

    def _of_stage(self, number: int, name: str) -> Any:
        own = getattr(self._stage(number), name)
        if own is not None:
            return own
        if name == "down" and number == 1:
            return ("none",)
        choices = getattr(self, name)
        return _widths(_PARALLEL) if choices is None else choices


def _ends(choices: Whole) -> tuple[float, ...]:
    """All values of a list; of a range the lowest and the one after it, which are even if all are."""
    return choices if isinstance(choices, tuple) else (choices.low, choices.low + (choices.step or 0))


def _widths(channel_parallel: int) -> Range:
    return Range(low=channel_parallel, high=_WIDEST * channel_parallel, step=channel_parallel)


def make_staged(drawn: Mapping[str, Value]) -> Staged:
    """The network of drawn parameters."""
    stages = []
    for number in range(1, int(drawn["stages"]) + 1):
        names = ("depth", "width", "block", "expansion", "kernel", "down")
        stages.append(
            NetworkStage.model_validate({name: drawn[f"{name}{number}"] for name in names if f"{name}{number}" in drawn})
        )
    whole = {name: drawn[name] for name in ("stem", "stem_width", "pooling", "head") if name in drawn}
    return Staged.model_validate({**whole, "stages": stages})
