"""The constants of a network as one block of bytes, and the on-chip words they are loaded to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler._external import check_address
from edgesearch.board_eval.graph import Conv, Depthwise, Linear, weight_integers
from edgesearch.board_eval.isa import MAX_SHIFT_BIAS
from edgesearch.errors import CompileError

__all__ = ["Arithmetic", "Parameters", "Ring", "arithmetic", "within_shifts"]

#: Addresses of constants are multiples of it, in the order bias, weights of each layer.
_PAGE = 4096
_LARGEST_CUT = 63
_BITS = 8

Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a weighted layer rounds: v = (2 * sum + bias * 2**shift_bias) / 2**(shift_cut + 1)."""

    shift_cut: int
    shift_bias: int
    act_type: int


_ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 3, "relu6": 4}


Weighted = TypeVar("Weighted", bound=Conv | Depthwise | Linear)


def within_shifts(node: Weighted, fix_in: int, fix: int) -> Weighted:
    """The same layer with weights and bias at positions that its shifts reach, if their integers leave room for it.

    Shifts go to the right alone, so sums must not be coarser than the result, and a bias is shifted to the left by so much at
    most. Raises CompileError where the weights leave no room.
    """
    if node.weight is None or node.weight_fix is None:
        return node
    weight, bias = weight_integers(node)
    finer = fix - fix_in - node.weight_fix
    if finer > 0:
        if (finer > _BITS and weight.any()) or not _fits(weight << min(finer, _BITS)):
            raise CompileError(
                f"layer {node.name!r}: its output has {finer} bits more behind the point than its sums, and its weights leave "
                "no room to make them finer; the DPU only shifts to the right: quantize it with a coarser output"
            )
        node = dataclasses.replace(node, weight_fix=node.weight_fix + finer)
    if bias is not None and bias.any() and node.bias_fix is not None and node.weight_fix is not None:
        beyond = fix_in + node.weight_fix - node.bias_fix + 1 - MAX_SHIFT_BIAS
        room = next((bits for bits in range(max(0, min(beyond, _BITS)), 0, -1) if _fits(bias << bits)), 0)
        node = dataclasses.replace(node, bias_fix=node.bias_fix + room) if room else node
    return node


def _fits(integers: npt.NDArray[np.int64]) -> bool:
    return bool(integers.min(initial=0) >= -128 and integers.max(initial=0) <= 127)


def arithmetic(node: Conv | Depthwise | Linear, fix_in: int, fix: int) -> tuple[Arithmetic, Bytes | None, Bytes | None]:
    """Shifts, weights and bias of a layer; the arrays are None where the node has shapes only.

    Weights are as they lie in memory: (out, kh, kw, in), or (kh, kw, C) of a depthwise convolution. A bias finer than the sum
    is rounded down beforehand, which changes nothing: the result is rounded down after it. Raises CompileError where the
    positions lie further apart than the shifts reach.
    """
    act = _ACTIVATIONS[node.activation]
    if node.weight is None:
        return Arithmetic(0, 0, act), None, None
    node = within_shifts(node, fix_in, fix)
    weight, bias = weight_integers(node)
    fix_weight, fix_bias = node.weight_fix or 0, node.bias_fix or 0
    cut, shift = fix_in + fix_weight - fix, fix_in + fix_weight - fix_bias + 1
    values = np.zeros(node.shape[-1], np.int64) if bias is None else bias
    if not values.any():
        shift = min(max(shift, 0), MAX_SHIFT_BIAS)
    elif shift < 0:
        values, shift = _coarser(node, values, -shift), 0
    if shift > MAX_SHIFT_BIAS or cut > _LARGEST_CUT:
        raise CompileError(
            f"layer {node.name!r}: fix positions (input {fix_in}, weight {node.weight_fix}, bias {node.bias_fix}, "
            f"output {fix}) ask for shifts of {cut} and {shift}, the DPU has 0..{_LARGEST_CUT} and 0..{MAX_SHIFT_BIAS}: "
            "quantize it with closer ones"
        )
    return Arithmetic(cut, shift, act), weight.astype(np.int8), values.astype(np.int8)


def _coarser(node: Conv | Depthwise | Linear, values: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    if node.activation == "leaky_relu" and (values % (1 << min(shift, 62))).any():
        raise CompileError(
            f"layer {node.name!r}: its bias has {shift} bits more behind the point than its sums; rounded before a leaky "
            'ReLU it would give other numbers: quantize it with a coarser bias, as method "best" does'
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
