"""The DPU as its description says it, one value at a time: what `Machine` is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, ElewInit, Instruction, Load, Save
from edgesearch.board_eval.targets import Target


def rounded(value: Fraction) -> int:
    return max(-128, min(127, math.floor(value + Fraction(1, 2))))


def shifted(value: Fraction, bits: int) -> Fraction:
    return value * Fraction(2) ** bits


def activated(value: Fraction, act_type: int) -> Fraction:
    if act_type == 1:
        return max(value, Fraction(0))
    if act_type == 3:
        return value * Fraction(26, 256) if value < 0 else value
    if act_type == 4:
        return max(Fraction(0), min(Fraction(96), value))
    return value


class SlowMachine:
    def __init__(self, target: Target, memory: npt.NDArray[np.int8], registers: dict[int, npt.NDArray[np.uint8]]) -> None:
        self.rows, self.lanes, self.depth = target.pixel_parallel, target.input_parallel, target.bank_words
        self.memory = memory.copy()
        self.registers = {number: array.copy() for number, array in registers.items()}

    def get(self, bank: int, word: int, lane: int) -> int:
        return int(self.memory[bank, word % self.depth, lane])

    def put(self, bank: int, word: int, lanes: Sequence[int]) -> None:
        self.memory[bank, word % self.depth] = [*lanes, *[0] * (self.lanes - len(lanes))]

    def channel(self, bank: int, word: int, channel: int) -> int:
        return self.get(bank, word + channel // self.lanes, channel % self.lanes)

    def run(self, program: Iterable[Instruction]) -> None:
        operands: list[ElewInit] = []
        for instruction in program:
            match instruction:
                case Load():
                    self.load(instruction)
                case Save():
                    self.save(instruction)
                case ConvInit():
                    conv_init = instruction
                case Conv():
                    self.conv(conv_init, instruction)
                case AluInit():
                    alu_init = instruction
                case Alu():
                    self.alu(alu_init, instruction)
                case ElewInit():
                    operands.append(instruction)
                case Elew():
                    self.elew(operands, instruction)
                    operands = []

    def load(self, load: Load) -> None:
        words = math.ceil(load.channel / self.lanes)
        for i in range(load.length):
            values = []
            for byte in range(load.channel):
                at = load.ddr_addr + i * load.jump_read + byte
                value = load.const_value if load.broadcast == 7 else int(self.registers[load.reg_id][at])
                if byte < load.pad_start - i * load.jump_read:
                    value = 0
                behind_last = i - (load.length - load.pad_idx)
                if load.pad_end and byte >= words * self.lanes - load.pad_end - behind_last * load.jump_read:
                    value = 0
                values.append(value - 256 if value > 127 else value)
            for word in range(words):
                lanes = values[word * self.lanes : (word + 1) * self.lanes]
                self.put(load.bank_id, load.bank_addr + i * load.jump_write + word, lanes)

    def save(self, save: Save) -> None:
        for i in range(save.length):
            for byte in range(save.channel):
                value = self.channel(save.bank_id, save.bank_addr + i * save.jump_read, byte)
                self.registers[save.reg_id][save.ddr_addr + i * save.jump_write + byte] = value % 256

    def pixel(self, init: ConvInit | AluInit, run: Conv | Alu, row: int, column: int) -> tuple[int, int]:
        """Bank and first word of an input pixel."""
        starts = (run.bank_addr_in, run.bank_addr_in_1, run.bank_addr_in_2, run.bank_addr_in_3)
        q = init.stride_offset_in + row
        k = run.bank_id_in % self.rows + q // init.stride_h
        group = run.bank_id_in - run.bank_id_in % self.rows
        word = starts[k // self.rows] + q % init.stride_h * init.jump_read_endl + column * init.jump_read
        return group + k % self.rows, word

    def window(
        self, init: ConvInit | AluInit, run: Conv | Alu, rows: int, columns: int, group: int, unreal: int, padding: int
    ) -> list[list[list[int]]]:
        """Values of all input pixels, [row][column][channel]; the last `unreal` channels and the borders are padding."""
        h = (rows - 1) * init.stride_h + init.kernel_h
        w = (columns - 1) * init.stride_w + init.kernel_w
        out = []
        for row in range(h):
            line = []
            for column in range(w):
                border = (
                    column < run.pad_left
                    or row < run.pad_top
                    or column >= w - init.kernel_w + 1 + run.pad_right
                    or row >= h - init.kernel_h + 1 + run.pad_bottom
                )
                bank, word = self.pixel(init, run, row, column)
                pixel = []
                for c in range(group * self.lanes):
                    masked = border or c >= group * self.lanes - unreal
                    pixel.append(padding if masked else self.channel(bank, word, c))
                line.append(pixel)
            out.append(line)
        return out

    def stored(self, init: ConvInit | AluInit, run: Conv | Alu, row: int, column: int) -> tuple[int, int]:
        """Bank and first word of an output pixel."""
        q = row + init.stride_offset_out
        k = run.bank_id_out % self.rows + q // init.stride_out
        line = k // self.rows * init.stride_out + q % init.stride_out
        word = run.bank_addr_out + line * init.jump_write_endl + column * init.jump_write
        return run.bank_id_out - run.bank_id_out % self.rows + k % self.rows, word

    def conv(self, init: ConvInit, conv: Conv) -> None:
        rows, group = init.valid_pixel_parallel, conv.channel_group
        window = self.window(init, conv, rows, conv.length, group, conv.channel_offset, 0)
        weights_bank = 2 * self.rows
        bias_bank = weights_bank + self.lanes + 1
        results = {}
        for row in range(rows):
            for column in range(conv.length):
                lanes = []
                for lane in range(self.lanes):
                    total = 0
                    for ky in range(init.kernel_h):
                        for kx in range(init.kernel_w):
                            pixel = window[row * init.stride_h + ky][column * init.stride_w + kx]
                            first = conv.bank_addr_weights + (ky * init.kernel_w + kx) * group
                            for c, x in enumerate(pixel):
                                if x:
                                    total += x * self.channel(weights_bank + lane, first, c)
                    bias = self.get(bias_bank, conv.bank_addr_bias, lane)
                    value = shifted(2 * total + shifted(Fraction(bias), init.shift_bias), -init.shift_cut - 1)
                    lanes.append(rounded(activated(value, init.act_type)))
                results[row, column] = lanes
        for (row, column), lanes in results.items():
            self.put(*self.stored(init, conv, row, column), lanes)

    def alu(self, init: AluInit, alu: Alu) -> None:
        rows, group, mode = alu.valid_pixel_parallel, init.channel_group, init.exec_mode
        window = self.window(init, alu, rows, init.length, group, init.channel_offset, -128 if mode == 3 else 0)
        results = {}
        for row in range(rows):
            for column in range(init.length):
                channels = []
                for c in range(group * self.lanes):
                    taps = [
                        window[row * init.stride_h + ky][column * init.stride_w + kx][c]
                        for ky in range(init.kernel_h)
                        for kx in range(init.kernel_w)
                    ]
                    channels.append(rounded(self.alu_value(init, alu, taps, c)))
                results[row, column] = channels
        for (row, column), channels in results.items():
            bank, word = self.stored(init, alu, row, column)
            for number in range(group):
                self.put(bank, word + number, channels[number * self.lanes : (number + 1) * self.lanes])

    def alu_value(self, init: AluInit, alu: Alu, taps: list[int], channel: int) -> Fraction:
        depthwise_bank = 2 * self.rows + self.lanes
        if init.exec_mode == 0:
            total = 0
            for number, x in enumerate(taps):
                first = alu.bank_addr_weights + number * init.jump_read_weights
                total += x * self.channel(depthwise_bank, first, channel)
            bias = self.channel(depthwise_bank + 1, alu.bank_addr_bias, channel)
            value = shifted(2 * total + shifted(Fraction(bias), init.shift_bias), -init.shift_cut - 1)
            return activated(value, init.act_type)
        if init.exec_mode == 4:
            (x,) = taps
            code = init.shift_prelu_p if x >= 0 else init.shift_prelu_n
            factor = init.multi_factor if x < 0 else 1
            return shifted(Fraction(x * factor), code if code < 32 else 32 - code)
        to_left = init.shift_cut if init.shift_cut < 8 else 8 - init.shift_cut
        if init.exec_mode == 3:
            return shifted(Fraction(max(taps)), to_left)
        signed = init.multi_factor - 256 if init.multi_factor > 127 else init.multi_factor
        return shifted(Fraction(sum(taps) * signed), to_left)

    def elew(self, operands: list[ElewInit], elew: Elew) -> None:
        results = {}
        for row in range(elew.valid_pixel_parallel):
            for column in range(elew.length):
                for c in range(elew.channel_group * self.lanes):
                    values = []
                    for init in operands:
                        k = init.bank_id_in % self.rows + row * init.jump_bank
                        bank = init.bank_id_in - init.bank_id_in % self.rows + k % self.rows
                        word = init.bank_addr_in + k // self.rows * init.jump_read_endl + column * init.jump_read
                        values.append(math.floor(Fraction(4 * self.channel(bank, word, c), 2**init.shift_read)))
                    found = Fraction(sum(values), 4) if elew.elew_type == 0 else Fraction(math.prod(values), 16)
                    found = shifted(found, elew.shift_write if elew.shift_write < 16 else 16 - elew.shift_write)
                    results[row, column, c] = rounded(max(found, Fraction(0)) if elew.act_type else found)
        for row in range(elew.valid_pixel_parallel):
            k = elew.bank_id_out % self.rows + row
            bank = elew.bank_id_out - elew.bank_id_out % self.rows + k % self.rows
            for column in range(elew.length):
                first = elew.bank_addr_out + k // self.rows * elew.jump_write_endl + column * elew.jump_write
                for number in range(elew.channel_group):
                    lanes = [results[row, column, number * self.lanes + lane] for lane in range(self.lanes)]
                    self.put(bank, first + number, lanes)
