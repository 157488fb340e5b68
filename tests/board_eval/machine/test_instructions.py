"""Every instruction against the slow machine, on all eight sizes, with memories full of random values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, ElewInit, Instruction, Load, Save
from edgesearch.board_eval.machine import Machine
from edgesearch.board_eval.targets import DPUS, Dpu
from edgesearch.errors import InstructionError

from ._slow_machine import SlowMachine

#: A fingerprint with leaky ReLU behind depthwise convolutions, bit 29, which no size has by default.
_LEAKY = tuple(
    Dpu(**{**dpu.model_dump(), "name": f"{dpu.name} leaky", "fingerprint": dpu.fingerprint | 1 << 29}) for dpu in DPUS.values()
)
targets = st.sampled_from((*DPUS.values(), *_LEAKY))
words = st.one_of(st.integers(0, 60), st.integers(1990, 2047))
few = settings(max_examples=100, deadline=None)


def compare(program: Sequence[Instruction], target: Dpu, seed: int) -> None:
    rng = np.random.default_rng(seed)
    registers = {number: rng.integers(0, 256, 600, dtype=np.uint8) for number in (0, 5)}
    machine = Machine(target, registers)
    extreme = rng.random(machine.memory.shape) < 0.1
    values = rng.integers(-128, 128, machine.memory.shape)
    machine.memory[:] = np.where(extreme, np.where(values < 0, -128, 127), values >> int(rng.integers(0, 5)))
    slow = SlowMachine(target, machine.memory, registers)
    try:
        machine.run(program)
    except InstructionError as error:
        assume("rounds through" not in str(error))
        raise
    slow.run(program)
    np.testing.assert_array_equal(machine.memory, slow.memory)
    for number, array in registers.items():
        np.testing.assert_array_equal(array, slow.registers[number])


def bank(data: st.DataObject, target: Dpu) -> int:
    return data.draw(st.integers(0, 2 * target.pixel_parallel - 1))


@few
@given(targets, st.data())
def test_load(target: Dpu, data: st.DataObject) -> None:
    channel = data.draw(st.integers(1, 40))
    overlapping = data.draw(st.booleans())
    load = Load(
        bank_id=data.draw(st.integers(0, 2 * target.pixel_parallel + target.input_parallel + 1)),
        bank_addr=data.draw(words),
        length=data.draw(st.integers(1, 6)),
        channel=channel,
        jump_write=data.draw(st.integers(1, 8)),
        jump_read=data.draw(st.integers(1, channel if overlapping else 60)),
        reg_id=data.draw(st.sampled_from((0, 5))),
        ddr_addr=data.draw(st.integers(0, 200)),
        broadcast=data.draw(st.sampled_from((0, 0, 0, 7))),
        const_value=data.draw(st.integers(0, 255)),
        pad_start=data.draw(st.integers(0, 31)) if overlapping else 0,
        pad_end=data.draw(st.integers(0, 31)) if overlapping else 0,
        pad_idx=data.draw(st.integers(1, 3)),
    )
    compare([load], target, data.draw(st.integers(0, 99)))


@few
@given(targets, st.data())
def test_save(target: Dpu, data: st.DataObject) -> None:
    save = Save(
        bank_id=bank(data, target),
        bank_addr=data.draw(words),
        length=data.draw(st.integers(1, 6)),
        channel=data.draw(st.integers(1, 40)),
        jump_read=data.draw(st.integers(1, 8)),
        jump_write=data.draw(st.integers(1, 60)),
        reg_id=5,
        ddr_addr=data.draw(st.integers(0, 200)),
    )
    compare([save], target, data.draw(st.integers(0, 99)))


def window(data: st.DataObject, kernel: tuple[int, int], highest_pad: int) -> dict[str, int]:
    """Padding, and starts of the rounds through the banks."""
    fields = {f"pad_{side}": data.draw(st.integers(0, 2)) for side in ("left", "top")}
    fields |= {
        "pad_right": data.draw(st.sampled_from((highest_pad, kernel[1] - 1, max(0, kernel[1] - 2)))),
        "pad_bottom": data.draw(st.sampled_from((highest_pad, kernel[0] - 1, max(0, kernel[0] - 2)))),
    }
    return fields | {f"bank_addr_in{end}": data.draw(words) for end in ("", "_1", "_2", "_3")}


@few
@given(targets, st.data())
def test_conv(target: Dpu, data: st.DataObject) -> None:
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    init = ConvInit(
        act_type=data.draw(st.sampled_from((0, 1, 3, 4))),
        shift_cut=data.draw(st.integers(0, 12)),
        shift_bias=data.draw(st.integers(0, 12)),
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=data.draw(st.integers(1, 4)),
        stride_w=data.draw(st.integers(1, 4)),
        valid_pixel_parallel=data.draw(st.integers(1, min(3, target.pixel_parallel))),
        jump_read=data.draw(st.integers(1, 5)),
        jump_read_endl=data.draw(st.integers(1, 30)),
        jump_write=data.draw(st.integers(1, 5)),
        jump_write_endl=data.draw(st.integers(1, 30)),
        stride_out=data.draw(st.integers(1, 4)),
        stride_offset_in=data.draw(st.integers(0, 7)),
        stride_offset_out=data.draw(st.integers(0, 7)),
    )
    conv = Conv(
        bank_id_in=bank(data, target),
        bank_id_out=bank(data, target),
        bank_addr_out=data.draw(words),
        bank_addr_weights=data.draw(words),
        bank_addr_bias=data.draw(words),
        length=data.draw(st.integers(1, 3)),
        channel_group=data.draw(st.integers(1, 2)),
        channel_offset=data.draw(st.integers(0, target.input_parallel - 1)),
        **window(data, kernel, 15),
    )
    compare([init, conv], target, data.draw(st.integers(0, 99)))


@few
@given(targets, st.sampled_from((0, 0, 2, 3, 4)), st.data())
def test_alu(target: Dpu, mode: int, data: st.DataObject) -> None:
    kernel = (1, 1) if mode == 4 else (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    stride = (1, 1) if mode == 4 else (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    init = AluInit(
        exec_mode=mode,
        act_type=data.draw(st.sampled_from((0, 1, 4, 3 if target.leaky_in_depthwise else 0))) if mode == 0 else 0,
        shift_cut=data.draw(st.integers(0, 20)),
        shift_bias=data.draw(st.integers(0, 12)),
        shift_prelu_p=data.draw(st.sampled_from((0, 1, 31, 32, 33, 34))),
        shift_prelu_n=data.draw(st.sampled_from((0, 1, 32, 36, 40))),
        multi_factor=data.draw(st.integers(0, 255)),
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=stride[0],
        stride_w=stride[1],
        length=data.draw(st.integers(1, 3)),
        channel_group=data.draw(st.integers(1, 2)),
        channel_offset=data.draw(st.integers(0, target.input_parallel - 1)),
        jump_read=data.draw(st.integers(1, 5)),
        jump_read_endl=data.draw(st.integers(1, 30)),
        jump_read_weights=data.draw(st.integers(0, 4)),
        jump_write=data.draw(st.integers(1, 5)),
        jump_write_endl=data.draw(st.integers(1, 30)),
        stride_out=data.draw(st.integers(1, 4)),
        stride_offset_in=data.draw(st.integers(0, 7)),
        stride_offset_out=data.draw(st.integers(0, 7)),
    )
    alu = Alu(
        bank_id_in=bank(data, target),
        bank_id_out=bank(data, target),
        bank_addr_out=data.draw(words),
        bank_addr_weights=data.draw(words),
        bank_addr_bias=data.draw(words),
        valid_pixel_parallel=data.draw(st.integers(1, target.alu_rows)),
        **window(data, kernel, 255),
    )
    compare([init, alu], target, data.draw(st.integers(0, 99)))


@few
@given(targets, st.integers(1, 4), st.data())
def test_elew(target: Dpu, number: int, data: st.DataObject) -> None:
    operands = [
        ElewInit(
            id=identity,
            bank_id_in=bank(data, target),
            bank_addr_in=data.draw(words),
            jump_bank=data.draw(st.integers(1, 4)),
            jump_read=data.draw(st.integers(0, 5)),
            jump_read_endl=data.draw(st.integers(1, 30)),
            shift_read=data.draw(st.integers(0, 8)),
        )
        for identity in range(number)
    ]
    elew = Elew(
        num=number,
        elew_type=data.draw(st.integers(0, 1)) if number == 2 else 0,
        act_type=data.draw(st.integers(0, 1)),
        length=data.draw(st.integers(1, 4)),
        channel_group=data.draw(st.integers(1, 3)),
        valid_pixel_parallel=data.draw(st.integers(1, target.alu_rows)),
        bank_id_out=bank(data, target),
        bank_addr_out=data.draw(words),
        jump_write=data.draw(st.integers(1, 5)),
        jump_write_endl=data.draw(st.integers(1, 30)),
        shift_write=data.draw(st.integers(0, 20)),
    )
    compare([*operands, elew], target, data.draw(st.integers(0, 99)))


def test_sums_beyond_float32_are_exact() -> None:
    """32,768 products: two sums of 29 bits, one at the half that is rounded up and one a single unit below it."""
    half = (100 << 22) + (1 << 21)
    total, rest = divmod(half, 127)
    full, last = divmod(total, 127)
    machine = Machine(DPUS["B4096"], {})
    machine.memory[0:8] = 127
    machine.memory[0, 0, 0] = 1
    for lane, first in enumerate((rest, rest - 1)):
        weights = machine.memory[16 + lane].reshape(-1)
        weights[1 : 1 + full] = 127
        weights[1 + full] = last
        weights[0] = first
    init = ConvInit(kernel_h=8, shift_cut=22)
    machine.run([init, Conv(channel_group=256, bank_id_out=8, pad_bottom=15, pad_right=15)])
    assert machine.memory[8, 0, :2].tolist() == [101, 100]


def test_the_window_kept_for_the_next_channels_follows_the_memory() -> None:
    machine = Machine(DPUS["B512"], {})
    machine.memory[8:16, 0] = 1
    machine.memory[0, 0] = 1
    conv = [ConvInit(), Conv(bank_id_out=4, pad_bottom=15, pad_right=15)]
    machine.run(conv)
    assert machine.memory[4, 0].tolist() == [8] * 8
    machine.memory[0, 0] = 2
    machine.run(conv)
    assert machine.memory[4, 0].tolist() == [16] * 8
