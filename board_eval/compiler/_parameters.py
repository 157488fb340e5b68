"""The constants of a network as one block of bytes, and the on-chip words they are loaded to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler._external import check_address
from edgesearch.board_eval.graph import Conv, Depthwise, Linear, weight_integers
from edgesearch.errors import CompileError

__all__ = ["Arithmetic", "Parameters", "Ring", "arithmetic"]

#: Addresses of constants are multiples of it, in the order bias, weights of each layer.
_PAGE = 4096
#: The largest shift of a bias that AMD's simulator takes.
_LARGEST_BIAS_SHIFT = 20
_LARGEST_CUT = 63

Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a weighted layer rounds: v = (2 * sum + bias * 2**shift_bias) / 2**(shift_cut + 1)."""

    shift_cut: int
    shift_bias: int
    act_type: int


_ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 3, "relu6": 4}


def arithmetic(node: Conv | Depthwise | Linear, fix_in: int, fix: int) -> tuple[Arithmetic, Bytes | None, Bytes | None]:
    """Shifts, weights and bias of a layer; the arrays are None where the node has shapes only.

    Weights are as they lie in memory: (out, kh, kw, in), or (kh, kw, C) of a depthwise convolution. A bias finer than the sum
    is rounded down beforehand, which changes nothing: the result is rounded down after it. Raises CompileError where the
    positions lie further apart than the shifts reach.
    """
    act = _ACTIVATIONS[node.activation]
    if node.weight is None:
        return Arithmetic(0, 0, act), None, None
    weight, bias = weight_integers(node)
    fix_weight, fix_bias = node.weight_fix or 0, node.bias_fix or 0
    cut = fix_in + fix_weight - fix
    if cut < 0:
        weight, fix_weight, cut = _finer(node, weight, fix_weight, -cut)
    shift = fix_in + fix_weight - fix_bias + 1
    values = np.zeros(node.shape[-1], np.int64) if bias is None else bias
    if not values.any():
        shift = min(max(shift, 0), _LARGEST_BIAS_SHIFT)
    elif shift < 0:
        values, shift = _coarser(node, values, -shift), 0
    while shift > _LARGEST_BIAS_SHIFT and np.abs(values).max() < 64:
        values, shift = values * 2, shift - 1
    if shift > _LARGEST_BIAS_SHIFT or cut > _LARGEST_CUT:
        raise CompileError(
            f"layer {node.name!r}: fix positions (input {fix_in}, weight {node.weight_fix}, bias {node.bias_fix}, "
            f"output {fix}) ask for shifts of {cut} and {shift}, the DPU has 0..{_LARGEST_CUT} and 0..{_LARGEST_BIAS_SHIFT}: "
            "quantize it with closer ones"
        )
    return Arithmetic(cut, shift, act), weight.astype(np.int8), values.astype(np.int8)


def _finer(
    node: Conv | Depthwise | Linear, weight: npt.NDArray[np.int64], fix_weight: int, shift: int
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Weights at a finer position, so that the sum is not coarser than the result: no shift goes to the left."""
    moved = weight << min(shift, 8)
    if (shift > 8 and weight.any()) or moved.max(initial=0) > 127 or moved.min(initial=0) < -128:
        raise CompileError(
            f"layer {node.name!r}: its output has {shift} bits more behind the point than its sums, and its weights leave no "
            "room to make them finer; the DPU only shifts to the right: quantize it with a coarser output"
        )
    return moved, fix_weight + shift, 0


def _coarser(node: Conv | Depthwise | Linear, values: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    if node.activation == "leaky_relu" and (values % (1 << min(shift, 62))).any():
        raise CompileError(
            f"layer {node.name!r}: its bias has {shift} bits more behind the point than its sums; rounded before a leaky "
            "ReLU it would give other numbers: quantize it with a coarser bias"
        )
    return values >> min(shift, 62)


class Parameters:
    """The block of constants, and where each lies in it. Without weights only the sizes are known."""

    def __init__(self) -> None:
        self.addresses: dict[tuple[str, str], int] = {}
        self._parts: list[tuple[int, Bytes]] = []
        self.size = 0

    def add(self, node: str, what: str, size: int, values: Bytes | None) -> int:
        """The address of a constant: `what` is "bias" or "weights"."""
        known = self.addresses.get((node, what))
        if known is not None:
            return known
        address = self.size
        self.addresses[node, what] = address
        self.size += -(-size // _PAGE) * _PAGE
        check_address(node, f"its {what}", self.size)
        if values is not None:
            self._parts.append((address, values))
        return address

    def content(self) -> bytes:
        """All of it, zeros between the constants."""
        block = np.zeros(max(self.size, _PAGE), np.int8)
        for address, values in self._parts:
            block[address : address + values.size] = values.ravel()
        return block.tobytes()


@dataclass
class Ring:
    """Words of parameter banks, given out one after the other, round and round."""

    depth: int
    next: int = field(default=0)

    def take(self, words: int) -> int:
        """The address of `words` words."""
        address = self.next
        self.next = (address + words) % self.depth
        return address
