"""The 64-bit number that says which DPU a compiled file is for, and its fields as far as AMD's public code decodes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgesearch.errors import TargetError

__all__ = ["SIZES", "Fingerprint"]

#: Lowest hexadecimal digit -> name, pixel parallel, input and output channel parallel.
SIZES: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("B512", 4, 8),
        1: ("B800", 4, 10),
        2: ("B1024", 8, 8),
        3: ("B1152", 4, 12),
        4: ("B1600", 8, 10),
        5: ("B2304", 8, 12),
        6: ("B3136", 8, 14),
        7: ("B4096", 8, 16),
    }
)


@dataclass(frozen=True)
class Fingerprint:
    """A DPU's fingerprint. 0 stands for an unknown one, which every board takes."""

    value: int

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """From hexadecimal digits as an arch.json has them, "0x101000056010407"; raises TargetError."""
        try:
            value = int(text, 16)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 64:
            raise TargetError(f"fingerprint {text!r} is not a hexadecimal number of 64 bits, as 0x101000056010407")
        return cls(value)

    def __str__(self) -> str:
        return f"0x{self.value:x}"

    def _bits(self, low: int, count: int) -> int:
        return self.value >> low & (1 << count) - 1

    @property
    def family(self) -> int:
        """Number of the kind of DPU; 1 is the DPUCZDX8G."""
        return self._bits(56, 8)

    @property
    def isa(self) -> int:
        """Version of the instruction set."""
        return self._bits(48, 8)

    @property
    def size(self) -> str:
        """Name of the size, "B4096"; "?" for a digit that no size has."""
        return SIZES.get(self._bits(0, 4), ("?", 0, 0))[0]

    @property
    def alu_rows(self) -> int:
        """Rows that pooling and depthwise convolution do at a time."""
        return self._bits(8, 4)

    @property
    def feature_groups(self) -> int:
        """Groups of feature-map banks."""
        return self._bits(24, 2)

    @property
    def augments_channels(self) -> bool:
        """Whether the columns of the first kernel can be folded into the input channels."""
        return bool(self._bits(26, 1))

    @property
    def leaky_in_conv(self) -> bool:
        """Whether a convolution can be followed by leaky ReLU."""
        return bool(self._bits(28, 1))

    @property
    def leaky_in_depthwise(self) -> bool:
        """Whether a depthwise convolution can be followed by leaky ReLU."""
        return bool(self._bits(29, 1))

    @property
    def argmax(self) -> bool:
        """Whether results can be written as the index of their largest channel."""
        return bool(self._bits(30, 1))

    def accepts(self, other: Fingerprint) -> bool:
        """Whether a DPU of this fingerprint runs a file compiled for `other`: the runtime compares all bits, 0 with none."""
        return self == other or 0 in (self.value, other.value)

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Where two fingerprints differ, field by field, in words: "size B4096, not B3136"."""
        fields = {
            "kind of DPU": (self.family, other.family),
            "instruction set": (self.isa, other.isa),
            "size": (self.size, other.size),
            "rows of the ALU": (self.alu_rows, other.alu_rows),
            "feature-map groups": (self.feature_groups, other.feature_groups),
            "channel augmentation": (self.augments_channels, other.augments_channels),
            "leaky ReLU behind a convolution": (self.leaky_in_conv, other.leaky_in_conv),
            "leaky ReLU behind a depthwise convolution": (self.leaky_in_depthwise, other.leaky_in_depthwise),
            "argmax of results": (self.argmax, other.argmax),
        }
        words = {True: "yes", False: "no"}
        found = tuple(
            f"{name} {words[a] if isinstance(a, bool) else a}, not {words[b] if isinstance(b, bool) else b}"
            for name, (a, b) in fields.items()
            if a != b
        )
        return found if found or self == other else ("bits whose meaning is not public",)
