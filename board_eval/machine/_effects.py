"""Whether two instructions do the same: what a mutation must change to be one."""

from __future__ import annotations

from collections.abc import Hashable

from edgesearch.board_eval.isa import Alu, Conv, Elew, Load, Save
from edgesearch.board_eval.machine._accesses import find_access
from edgesearch.board_eval.machine._alu import AVERAGE, DEPTHWISE, LEAKY_RELU
from edgesearch.board_eval.machine._arithmetic import power
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._steps import Step
from edgesearch.board_eval.machine._transfers import BROADCAST, load_mask
from edgesearch.board_eval.machine._windows import Window

__all__ = ["effect"]


def effect(banks: Banks, step: Step) -> Hashable:
    """Equal for instructions that read and write the same places and compute the same; None for those that only set.

    The instruction must be within the limits.
    """
    match step.instruction:
        case Load() as load:
            mask = load_mask(banks, load)
            constant = load.const_value if load.broadcast == BROADCAST else None
            return (*_places(banks, step), mask.tobytes() if mask is not None and mask.any() else None, constant)
        case Save():
            return _places(banks, step)
        case Conv() as conv:
            init = step.conv_init
            values = (init.act_type, init.shift_cut, init.shift_bias)
            return (*_places(banks, step), *_shape(Window.of_conv(init, conv)), *values)
        case Alu() as alu:
            return (*_places(banks, step), *_shape(Window.of_alu(step.alu_init, alu)), *_alu_values(step))
        case Elew() as elew:
            reads = tuple(operand.shift_read for operand in step.operands)
            shape = (elew.length, elew.channel_group, elew.valid_pixel_parallel)
            return (*_places(banks, step), reads, shape, elew.elew_type, elew.act_type, power(elew.shift_write, 16))
    return None


def _places(banks: Banks, step: Step) -> tuple[Hashable, ...]:
    access = find_access(banks, step)
    arrays = (access.read, access.read_parameters, access.written, access.read_bytes, access.written_bytes)
    return (type(step.instruction), access.register, *(array.tobytes() for array in arrays))


def _shape(window: Window) -> tuple[Hashable, ...]:
    real = (window.real_rows, window.real_columns)
    bounds = tuple((part.start, part.stop) for part in real)
    strides = (window.rows > 1 and window.stride[0], window.columns > 1 and window.stride[1])
    return (window.height, window.width, window.kernel, strides, bounds, window.group, window.channel_offset)


def _alu_values(step: Step) -> tuple[Hashable, ...]:
    init = step.alu_init
    if init.exec_mode == DEPTHWISE:
        return (init.exec_mode, init.act_type, init.shift_cut, init.shift_bias)
    if init.exec_mode == LEAKY_RELU:
        return (init.exec_mode, init.multi_factor, init.shift_prelu_p, init.shift_prelu_n)
    factor = init.multi_factor if init.exec_mode == AVERAGE else None
    return (init.exec_mode, power(init.shift_cut, 8), factor)
