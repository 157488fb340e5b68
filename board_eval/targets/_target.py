"""The seam between a network and a DPU: what lowering, timing, pruning and export ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets._limits import Limits
from edgesearch.errors import TargetError

__all__ = ["Target", "Violation", "check_target"]


@dataclass(frozen=True)
class Violation:
    """One limit that one layer breaks: what the layer has, what the target takes, what to do."""

    layer: str
    given: str
    limit: str
    advice: str

    def __str__(self) -> str:
        return f"{self.given}; {self.limit}; {self.advice}"


@runtime_checkable
class Target(Protocol):
    """One DPU: its geometry, its limits and its fingerprint. `Dpu` is the implementation for the DPUCZDX8G."""

    @property
    def name(self) -> str:
        """Its size, as "B4096"."""
        ...

    @property
    def fingerprint(self) -> int:
        """The number a compiled file must carry to run on it; 0: not known."""
        ...

    @property
    def pixel_parallel(self) -> int:
        """Rows a convolution computes at a time."""
        ...

    @property
    def input_parallel(self) -> int:
        """Input channels a convolution reads at a time: the int8 values of one memory word."""
        ...

    @property
    def output_parallel(self) -> int:
        """Output channels a convolution computes at a time."""
        ...

    @property
    def channel_parallel(self) -> int:
        """Multiples of this many channels fill the DPU: what pruning keeps of a layer is best a multiple of it."""
        ...

    @property
    def bank_words(self) -> int:
        """Depth of every on-chip bank, in words."""
        ...

    @property
    def feature_groups(self) -> int:
        """Groups of `pixel_parallel` feature-map banks."""
        ...

    @property
    def transfer_words(self) -> int:
        """Words that one LOAD or SAVE moves at most."""
        ...

    @property
    def alu_rows(self) -> int:
        """Rows that pooling, depthwise convolution and elementwise operations do at a time."""
        ...

    @property
    def augmented_inputs(self) -> int:
        """Largest kernel width x channels of a first convolution that is folded into the input channels; 0: none is."""
        ...

    @property
    def leaky_in_conv(self) -> bool:
        """Whether a convolution or a linear layer can be followed by leaky ReLU."""
        ...

    @property
    def leaky_in_depthwise(self) -> bool:
        """Whether a depthwise convolution can be followed by leaky ReLU."""
        ...

    @property
    def limits(self) -> Limits:
        """The largest values that its operations take."""
        ...

    def violations(self, graph: Graph) -> tuple[Violation, ...]:
        """Every limit that a layer of `graph` breaks, in the order of its layers; () when the DPU runs it."""
        ...


def check_target(target: object) -> None:
    """Raise TargetError for what is no target, such as the name or the profile of a board."""
    if isinstance(target, type) or not isinstance(target, Target):
        given = repr(target) if isinstance(target, str | type) else f"of type {type(target).__name__}"
        raise TargetError(
            f"the target is {given}, expected a Target, such as find_target('B4096') gives, or `load_profile(BOARD).dpu`"
        )
