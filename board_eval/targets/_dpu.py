"""The DPUCZDX8G in its eight sizes.

Geometry: AMD, "DPUCZDX8G for Zynq UltraScale+ MPSoCs" (PG338), tables of architectures and of on-chip memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets._fingerprint import SIZES, Fingerprint
from edgesearch.board_eval.targets._limits import Limits
from edgesearch.board_eval.targets._target import Violation
from edgesearch.board_eval.targets._violations import violations
from edgesearch.settings import Settings

__all__ = ["DEFAULT_TARGET", "DPUS", "MODELLED", "Dpu"]

#: What the limits, the arithmetic and the timing are those of.
MODELLED = "DPUCZDX8G (ISA 1) of Vitis AI 3.5"

#: Fingerprint of the smallest size: DPUCZDX8G, ISA 1, two feature-map groups, channel augmentation, leaky ReLU behind
#: convolutions. Compiled files of all eight sizes have these bits.
_FAMILY = 0x0101_0000_1601_0000
#: What the arch.json of a ZCU104 adds in Vitis AI 3.5: argmax of results.
_ARGMAX = 1 << 30
#: Where Vitis AI keeps the arch.json of this fingerprint, below its folder `arch`.
_ARCH_JSON = {_FAMILY | _ARGMAX | 4 << 8 | 7: "DPUCZDX8G/ZCU104/arch.json"}

_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class Dpu(Settings):
    """One core of a DPUCZDX8G: a `Target` that can be stored with a board profile.

    Its convolution engine works on `pixel_parallel` rows, `input_parallel` input and `output_parallel` output channels at a
    time; a memory word holds `input_parallel` int8 values of one pixel. Its constructor raises SettingsError for
    numbers that do not go together.
    """

    name: str
    pixel_parallel: _Count
    input_parallel: _Count
    output_parallel: _Count
    #: Depth of every on-chip bank, in words: the weights of one output channel lie in one.
    bank_words: _Count = 2048
    #: Groups of `pixel_parallel` feature-map banks; a tensor lies in one of them.
    feature_groups: _Count = 2
    #: Words that one LOAD or SAVE moves at most; longer rows are cut.
    transfer_words: _Count = 1024
    #: What a compiled file must carry to run on it; 0: not known. Left out: that of the size in `name`.
    fingerprint: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Take `max_kernel` and `max_stride`, as profiles store the limits of convolutions, and find the fingerprint."""
        if not isinstance(given, Mapping):
            return given
        content = dict(given)
        stored = {new: content.pop(old) for new, old in _STORED_LIMITS.items() if old in content}
        limits = content.get("limits", {})
        if stored and isinstance(limits, Mapping):
            content["limits"] = {**stored, **limits}
        known = _FINGERPRINTS.get(str(content.get("name")))
        if known is not None and _geometry(content) == _geometry_of(known):
            content.setdefault("fingerprint", known)
        return content

    @model_validator(mode="after")
    def _agree(self) -> Dpu:
        mark = Fingerprint(self.fingerprint)
        if self.fingerprint and (mark.size == "?" or _geometry(self.__dict__) != _geometry_of(self.fingerprint)):
            raise ValueError(f"the fingerprint {mark} is that of a {mark.size}, which has another geometry")
        return self

    @model_serializer(mode="wrap")
    def _write(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As 0.1.0 stored it, and what differs from the defaults: keys of stages do not change when a limit is added."""
        content: dict[str, Any] = plain(self)
        limits: dict[str, Any] = content.pop("limits")
        for name, stored in _STORED_LIMITS.items():
            content[stored] = limits.pop(name)
        other = {name: value for name, value in limits.items() if getattr(self.limits, name) != getattr(Limits(), name)}
        if other:
            content["limits"] = other
        if self.transfer_words == type(self).model_fields["transfer_words"].default:
            del content["transfer_words"]
        if self.fingerprint == _FINGERPRINTS.get(self.name, 0):
            del content["fingerprint"]
        return content

    @property
    def operations_per_cycle(self) -> int:
        """Multiplications and additions per cycle, the number in the name of the size."""
        return 2 * self.pixel_parallel * self.input_parallel * self.output_parallel

    @property
    def channel_parallel(self) -> int:
        """Multiples of this many channels fill the DPU, as inputs and as outputs."""
        return max(self.input_parallel, self.output_parallel)

    @property
    def alu_rows(self) -> int:
        """Rows that pooling, depthwise convolution and elementwise operations do at a time."""
        return Fingerprint(self.fingerprint).alu_rows or max(1, self.pixel_parallel // 2)

    @property
    def augmented_inputs(self) -> int:
        """Largest kernel width x channels of a first convolution that is folded into the input channels."""
        folds = self.fingerprint == 0 or Fingerprint(self.fingerprint).augments_channels
        return 2 * self.input_parallel if folds else 0

    @property
    def leaky_in_conv(self) -> bool:
        """Whether a convolution can be followed by leaky ReLU."""
        return self.fingerprint == 0 or Fingerprint(self.fingerprint).leaky_in_conv

    @property
    def leaky_in_depthwise(self) -> bool:
        """Whether a depthwise convolution can be followed by leaky ReLU; no size has it by default."""
        return Fingerprint(self.fingerprint).leaky_in_depthwise

    @property
    def dpu_name(self) -> str:
        """The name that compiled files carry: with the fingerprint behind it unless it is the one of Vitis AI's arch.json."""
        plain = f"DPUCZDX8G_ISA1_{self.name}"
        return plain if self.arch_json or not self.fingerprint else f"{plain}_{self.fingerprint:016x}"

    @property
    def arch_json(self) -> str:
        """Path of its arch.json below Vitis AI's folder `arch`; "" where none is known: write `arch_content` to a file."""
        return _ARCH_JSON.get(self.fingerprint, "")

    @property
    def arch_content(self) -> str:
        """The text of an arch.json for AMD's compiler (`vai_c_xir --arch FILE`)."""
        return json.dumps({"fingerprint": str(Fingerprint(self.fingerprint))}) + "\n"

    def violations(self, graph: Graph) -> tuple[Violation, ...]:
        """Every limit that a layer of `graph` breaks, in the order of its layers; () when the DPU runs it."""
        return violations(graph, self)


#: Limits -> what profiles call them.
_STORED_LIMITS = {"conv_kernel": "max_kernel", "conv_stride": "max_stride"}


def _fingerprint(digit: int, pixels: int) -> int:
    """That of a size: rows of the ALU in bits 8 to 11, the size in the lowest digit."""
    usual = _FAMILY | pixels // 2 << 8 | digit
    return usual | _ARGMAX if usual | _ARGMAX in _ARCH_JSON else usual


_FINGERPRINTS = {name: _fingerprint(digit, pixels) for digit, (name, pixels, _) in SIZES.items()}


def _geometry(content: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(content.get(field) for field in ("pixel_parallel", "input_parallel", "output_parallel"))


def _geometry_of(fingerprint: int) -> tuple[Any, ...]:
    _, pixels, channels = SIZES.get(fingerprint & 15, ("", 0, 0))
    return (pixels, channels, channels)


#: Every size of the DPUCZDX8G.
DPUS: Mapping[str, Dpu] = MappingProxyType(
    {
        name: Dpu(name=name, pixel_parallel=pixels, input_parallel=channels, output_parallel=channels)
        for name, pixels, channels in SIZES.values()
    }
)

#: The DPU of the ZCU104, ZCU102 and KV260 images: what a network is lowered for when nothing else is said.
DEFAULT_TARGET = DPUS["B4096"]
