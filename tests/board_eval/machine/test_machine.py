from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, ElewInit, End, Instruction, Load, Save
from edgesearch.board_eval.machine import Machine, simulate
from edgesearch.board_eval.targets import DPUS
from edgesearch.errors import InstructionError

from ._compiled import read_compiled
from ._small import OUTPUT, TARGET, WORKSPACE, small_program, small_registers, small_result


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_program(seed: int) -> None:
    registers = small_registers(seed)
    before = {number: array.copy() for number, array in registers.items()}
    after = simulate(small_program(), TARGET, registers)
    np.testing.assert_array_equal(after[OUTPUT].view(np.int8), small_result(registers))
    np.testing.assert_array_equal(after[WORKSPACE], after[OUTPUT])
    for number, array in before.items():
        np.testing.assert_array_equal(registers[number], array)


def test_a_machine_writes_into_the_registers_it_was_given() -> None:
    registers = small_registers()
    machine = Machine(TARGET, registers)
    machine.memory[:] = np.random.default_rng(1).integers(-128, 128, machine.memory.shape)
    machine.run(small_program())
    np.testing.assert_array_equal(registers[OUTPUT].view(np.int8), small_result(registers))
    assert machine.registers[OUTPUT] is not None
    np.testing.assert_array_equal(machine.registers[OUTPUT], registers[OUTPUT])


def test_nothing_is_executed_behind_end() -> None:
    registers = {3: np.ones(8, np.uint8)}
    Machine(TARGET, registers).run([End(), Save(channel=8, reg_id=3)])
    assert registers[3].tolist() == [1] * 8


INIT = ConvInit()
POOL = AluInit(exec_mode=3)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ([Load(bank_id=18)], "instruction 0 (LOAD) has bank_id = 18, expected at most 17"),
        ([Load(bank_addr=2048)], "has bank_addr = 2048, expected at most 2047"),
        ([Load(length=4, channel=30, jump_read=10)], "uses bytes 0..59 of register 0, which has 56"),
        ([Load(reg_id=5)], "uses register 5, there are 0, 3"),
        ([Load(length=1023, channel=9)], "moves 2046 words, expected at most 1024"),
        ([Load(mode_avg=1)], "has mode_avg = 1, subtraction of a mean"),
        ([Load(broadcast=3)], "has broadcast = 3, expected 0 or 7"),
        ([Load(channel=8, jump_read=9, length=2, pad_start=1)], "masks bytes of pieces of 8 bytes, 9 apart"),
        ([Save(bank_id=18)], "(SAVE) has bank_id = 18"),
        ([Save(reg_id=3, ddr_addr=56)], "uses bytes 56..56 of register 3, which has 56"),
        ([Save(argmax=2)], "has argmax = 2, the largest channel"),
        ([Save(const_en=1)], "has const_en = 1, a constant"),
        ([Save(hp_id=2)], "has hp_id = 2, expected at most 1"),
        ([Conv()], "instruction 0 (CONV) has no CONVINIT before it"),
        ([Alu()], "has no ALUINIT before it"),
        ([ConvInit(stride_h=9)], "has stride_h = 9, expected at most 8"),
        ([ConvInit(stride_out=5)], "has stride_out = 5, expected at most 4"),
        ([ConvInit(valid_pixel_parallel=5)], "has valid_pixel_parallel = 5, expected at most 4"),
        ([ConvInit(act_type=2)], "has act_type = 2, expected one of 0, 1, 3, 4"),
        ([ConvInit(shift_bias=21)], "has shift_bias = 21, expected at most 20"),
        ([INIT, Conv(bank_id_in=8)], "instruction 1 (CONV) has bank_id_in = 8, expected a feature-map bank: 0..7"),
        ([INIT, Conv(bank_id_out=9)], "has bank_id_out = 9, expected a feature-map bank: 0..7"),
        ([INIT, Conv(bank_addr_in=2048)], "has bank_addr_in = 2048, expected at most 2047"),
        ([INIT, Conv(bank_addr_weights=4000)], "has bank_addr_weights = 4000"),
        ([INIT, Conv(channel_offset=8)], "has channel_offset = 8, expected less than the 8 of a word"),
        ([ConvInit(kernel_h=16), Conv(bank_id_in=1)], "reads 16 rows from bank 1 on, which is 5 rounds through 4 banks"),
        ([ConvInit(kernel_h=5), Conv(bank_addr_in_1=2048)], "has bank_addr_in_1 = 2048, expected at most 2047"),
        ([ConvInit(kernel_h=3, kernel_w=3), Conv(channel_group=256)], "has 2304 words of weights per output channel"),
        ([AluInit(exec_mode=5)], "has exec_mode = 5 (maximum of all channels), expected 0, 2, 3 or 4"),
        ([AluInit(act_type=3)], "has act_type = 3, expected one of 0, 1, 4"),
        ([AluInit(exec_mode=3, act_type=1)], "has act_type = 1, expected 0 behind anything but a depthwise convolution"),
        ([AluInit(exec_mode=4, kernel_w=2)], "has a window of 1 x 2 and strides 1 and 1, expected 1 for leaky ReLU"),
        ([POOL, Alu(valid_pixel_parallel=3)], "has valid_pixel_parallel = 3, expected at most 2"),
        ([POOL, Alu(kernel_d=2)], "has kernel_d = 2, expected at most 1"),
        ([POOL, Alu(bank_addr_out=2048)], "has bank_addr_out = 2048"),
        ([ElewInit(share_pp=1)], "has share_pp = 1"),
        ([ElewInit(bank_id_in=8)], "has bank_id_in = 8, expected a feature-map bank"),
        ([Elew()], "has 1 operands, the ELEWINITs before it are of operands ()"),
        ([ElewInit(), ElewInit(), Elew(num=2)], "has 2 operands, the ELEWINITs before it are of operands (0, 0)"),
        ([ElewInit(), Elew(elew_type=2)], "has elew_type = 2, expected 0 (sum) or 1 (product)"),
        ([ElewInit(), Elew(elew_type=1)], "is a product of 1 operands, expected 2"),
        ([ElewInit(), Elew(), Elew()], "instruction 2 (ELEW) has 1 operands, the ELEWINITs before it are of operands ()"),
        ([ElewInit(), Elew(valid_pixel_parallel=3)], "has valid_pixel_parallel = 3, expected at most 2"),
    ],
)
def test_what_the_dpu_does_not_have_is_named(program: list[Instruction], sentence: str) -> None:
    machine = Machine(DPUS["B512"], {0: np.zeros(56, np.uint8), 3: np.zeros(56, np.uint8)})
    with pytest.raises(InstructionError) as error:
        machine.run(program)
    assert sentence in str(error.value)


def test_constants_in_a_read_only_array_stay() -> None:
    machine = Machine(DPUS["B512"], {0: np.frombuffer(bytes(56), np.uint8)})
    with pytest.raises(InstructionError, match=r"instruction 1 \(SAVE\) writes register 0, the array of which is read-only"):
        machine.run([Load(), Save()])


def test_settings_hold_until_the_next_ones() -> None:
    machine = Machine(DPUS["B512"], {})
    machine.memory[0, 0] = 5
    machine.memory[8:16, 0, 0] = 2
    machine.run([ConvInit(shift_cut=1), Conv(bank_addr_out=1, pad_right=15), Conv(bank_addr_out=2, pad_right=15)])
    assert machine.memory[0, 1:3].tolist() == [[5] * 8] * 2
    assert machine.memory[0, 3].tolist() == [0] * 8


@pytest.mark.parametrize("image", [0, 7])
def test_squeezenet_as_amd_compiled_it_gives_the_golden_logits(reference_data: Path, image: int) -> None:
    compiled = read_compiled(reference_data / "compiled" / "SqueezeNet_ptq_zcu104.xmodel")
    folder = reference_data / "golden" / "squeezenet"
    pixels = np.load(folder / "images_u8_0_19.npz")["images"][image]
    values = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    quantized = np.clip(np.floor(values.astype(np.float64) * 128 + 0.5), -128, 127).astype(np.int8)
    registers = compiled.registers(image, r2=quantized.view(np.uint8))
    machine = Machine(compiled.target, registers)
    machine.memory[:] = np.random.default_rng(image).integers(-128, 128, machine.memory.shape)
    machine.run(compiled.program)
    logits = registers[3][:10].view(np.int8) * 2.0**-3
    np.testing.assert_array_equal(logits, np.load(folder / "logits_0_19.npy")[image].reshape(-1))


@pytest.mark.slow
def test_all_sizes_compute_the_same(reference_data: Path) -> None:
    """YOLOX-nano for four sizes: the three outputs lie in one register, which differs nowhere."""
    outputs = []
    for size in ("B512", "B1024", "B2304", "B4096"):
        compiled = read_compiled(reference_data / "compiled" / f"yolox_nano_{size}.xmodel")
        assert compiled.target is DPUS[size]
        image = np.random.default_rng(7).integers(0, 256, compiled.sizes[2], dtype=np.uint8)
        registers = compiled.registers(len(outputs), r2=image)
        registers[3][:] = 0
        Machine(compiled.target, registers).run(compiled.program)
        outputs.append(registers[3])
    assert np.unique(outputs[0]).size > 50
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])


def test_a_changed_weight_changes_the_result() -> None:
    program = small_program()
    shifted = (replace(program[0], ddr_addr=1), *program[1:])  # type: ignore[call-arg]
    registers = small_registers()
    before, after = (simulate(each, TARGET, registers)[OUTPUT] for each in (program, shifted))
    assert not np.array_equal(before, after)
