"""What silicon has surely run: the values that instructions have in compiled files which boards were measured with.

A program may hold instructions of a kind that those files have, with other values: a kernel of 5 x 5, an average of 8 x 8. They
follow the same rules in AMD's simulator, and are listed. Features that no such file has at all are used only where they are
named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Graph, Linear
from edgesearch.board_eval.isa import Alu, AluInit, ConvInit, Elew, ElewInit, Instruction, Load
from edgesearch.board_eval.isa import Conv as ConvInstruction
from edgesearch.errors import CompileError

__all__ = ["FEATURES", "Feature", "check_features", "unseen"]

#: What is used only when it is asked for: ReLU6 and leaky ReLU as activations of an instruction, two SAVEs at a time. (Files
#: have those; whether a token of the second half covers the first is not known.)
Feature: TypeAlias = Literal["relu6", "leaky_relu", "save_pairs"]
FEATURES: tuple[Feature, ...] = ("relu6", "leaky_relu", "save_pairs")

# Thirteen files of AMD's compiler 3.5: SqueezeNet, MobileNetV2, ResNet-50 for B4096, YOLOX-nano for all sizes.
_CONV_KERNELS = {(1, 1), (3, 3), (3, 1), (7, 1)}
_WINDOWS = {0: {(3, 3)}, 2: {(7, 7), (13, 13)}, 3: {(3, 3), (5, 5), (9, 9), (13, 13)}}
_STRIDES = {1, 2}
_MODES = {0: "depthwise convolution", 2: "average", 3: "maximum", 4: "leaky ReLU"}
_SHIFT_CUT = {"convolution": range(5, 12), "depthwise convolution": range(3, 9)}
_SHIFT_BIAS = range(11)
_SHIFT_READ, _SHIFT_WRITE = range(4), {0, 1, 17}
_LOADED = range(1, 1281)
_PAD_LEFT, _PAD_TOP, _PAD_WINDOW = {0, 1}, {0, 1, 3}, range(7)


def check_features(graph: Graph, allow: Iterable[str]) -> None:
    """Raise CompileError for a layer with leaky ReLU, unless it is allowed, and for a feature that does not exist."""
    allowed = set(allow)
    unknown = sorted(allowed - set(FEATURES))
    if unknown:
        raise CompileError(f"there is no feature {unknown[0]!r} to allow; there are {', '.join(FEATURES)}")
    for node in graph:
        kinds = Conv | Depthwise | Linear | Add | Activation
        if isinstance(node, kinds) and node.activation == "leaky_relu" and "leaky_relu" not in allowed:
            raise CompileError(
                f"layer {node.name!r} has a leaky ReLU: it is known from AMD's simulator alone, and no compiled file that was "
                "measured on a board has one; allow 'leaky_relu', or use ReLU"
            )


def unseen(program: Iterable[Instruction]) -> tuple[str, ...]:
    """What of a program no measured file has, in words, each once."""
    program = tuple(program)
    return tuple(dict.fromkeys((*(text for one in program for text in _unseen(one)), *_parts(program))))


def _unseen(one: Instruction) -> Iterator[str]:
    match one:
        case ConvInit():
            yield from _weighted("convolution", one)
            if (one.kernel_h, one.kernel_w) not in _CONV_KERNELS:
                yield f"convolution of {one.kernel_h} x {one.kernel_w}"
            yield from _strides("convolution", one)
        case ConvInstruction():
            if one.pad_left not in _PAD_LEFT:
                yield f"convolution padded by {one.pad_left} columns on the left"
            if one.pad_top not in _PAD_TOP:
                yield f"convolution padded by {one.pad_top} rows on top"
        case AluInit():
            what = _MODES.get(one.exec_mode, f"mode {one.exec_mode}")
            if one.exec_mode == 0:
                yield from _weighted(what, one)
            if (one.kernel_h, one.kernel_w) not in _WINDOWS.get(one.exec_mode, set()):
                yield f"{what} of {one.kernel_h} x {one.kernel_w}"
            yield from _strides(what, one)
        case Alu() if max(one.pad_left, one.pad_top) not in _PAD_WINDOW:
            yield f"window padded by {max(one.pad_left, one.pad_top)} on the left or on top"
        case ElewInit() if one.shift_read not in _SHIFT_READ:
            yield f"operand of a sum shifted right by {one.shift_read}"
        case Elew():
            if one.shift_write not in _SHIFT_WRITE:
                left = one.shift_write if one.shift_write < 16 else 16 - one.shift_write
                yield f"sum shifted {'left' if left > 0 else 'right'} by {abs(left)}"
            if one.num == 1 and one.act_type:
                yield "ReLU of one operand"
        case Load() if one.channel not in _LOADED:
            yield f"load of pieces of {one.channel} bytes"
        case _:
            pass


def _parts(program: Iterable[Instruction]) -> Iterator[str]:
    """Convolutions in groups read a part of each pixel, those of compiled files all of it."""
    pixel = 0
    for one in program:
        if isinstance(one, ConvInit):
            pixel = one.jump_read
        elif isinstance(one, ConvInstruction) and one.channel_group < pixel:
            yield "convolution of a part of the input's channels"


def _weighted(what: str, one: ConvInit | AluInit) -> Iterator[str]:
    if one.act_type > 1:
        yield f"{what} with {'leaky ReLU' if one.act_type == 3 else 'ReLU6'}"
    if isinstance(one, AluInit) and one.act_type == 0:
        yield f"{what} without ReLU"
    if one.shift_cut not in _SHIFT_CUT[what]:
        yield f"{what} shifted right by {one.shift_cut}"
    if one.shift_bias not in _SHIFT_BIAS:
        yield f"{what} with a bias shifted left by {one.shift_bias}"


def _strides(what: str, one: ConvInit | AluInit) -> Iterator[str]:
    if not {one.stride_h, one.stride_w} <= _STRIDES:
        yield f"{what} with strides {one.stride_h} x {one.stride_w}"
