"""What a DPU takes of each operation, as numbers.

From AMD's target description of the DPUCZDX8G and the limit checks of its quantizer (Vitis AI 3.5), and its user guide UG1414,
"Currently Supported Operators". Limits that follow from the depth of a memory are in the geometry of the `Dpu`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from edgesearch.settings import Settings

__all__ = ["Limits"]

_Length = Annotated[int, Field(ge=1, le=1 << 20)]
_Padding = Annotated[int, Field(ge=0, le=1 << 20)]


class Limits(Settings):
    """The largest values that the operations of a DPU take. Kernels, strides and paddings are in pixels, per axis."""

    #: Convolution; its padding on each side is at most (kernel - 1) * dilation.
    conv_kernel: _Length = 16
    conv_stride: _Length = 8
    #: Groups of channels computed one after the other: at most so many times `output_parallel` output channels of a
    #: convolution, and so many times `input_parallel` for dilation x input channels.
    channel_groups: _Length = 256
    #: Depthwise convolution and pooling, which one engine does.
    window_kernel: _Length = 256
    window_stride: _Length = 256
    #: Their padding on the left and on top, and on the right and at the bottom.
    window_padding_before: _Padding = 15
    window_padding_after: _Padding = 255
    #: Transposed convolution.
    transposed_kernel: _Length = 16
    transposed_stride: _Length = 16
    #: Factors of nearest and bilinear upsampling.
    upsampling_factors: tuple[_Length, ...] = (2, 4)

    #: Bits that the sum of a layer with weights is shifted right by, fix(in) + fix(weight) - fix(out), and that its bias is
    #: shifted left by, fix(in) + fix(weight) - fix(bias), as pytorch_nndct has them. A network is quantized once for all
    #: targets, so that these are no settings of one.
    shift_cut: ClassVar[int] = 16
    shift_bias: ClassVar[int] = 16
    #: Fix positions that inputs of an addition may lie apart; beyond these guard bits the finer one loses its low bits.
    guard_bits: ClassVar[int] = 2

    @classmethod
    def bias_shifts(cls, shift_cut: int) -> tuple[int, int]:
        """The least and the largest shift of the bias of a layer whose sum is shifted by `shift_cut`; below 0 to the right."""
        return min(0, shift_cut - 16), cls.shift_bias
