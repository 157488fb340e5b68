"""What one instruction must not ask of the hardware, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgesearch.board_eval.isa import (
    MAX_SHIFT_BIAS,
    WINDOW_ROUNDS,
    Alu,
    AluInit,
    Conv,
    ConvInit,
    Elew,
    ElewInit,
    Instruction,
    Load,
    Save,
)
from edgesearch.board_eval.machine import _alu, _elementwise
from edgesearch.board_eval.machine._arithmetic import LEAKY, NONE, RELU, RELU6
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._steps import Step
from edgesearch.board_eval.machine._transfers import BROADCAST
from edgesearch.board_eval.machine._windows import Window
from edgesearch.board_eval.targets import Target

__all__ = ["InstructionLimits"]

#: AMD's target description of the DPUCZDX8G.
_MAX_STRIDE = 8
_MAX_STRIDE_OUT = 4
#: LOAD masks bytes of pieces up to this long.
_MASKED_BYTES = 64
#: Memory ports of SAVE.
_PORTS = 2
_MODES = {
    1: "PReLU",
    5: "maximum of all channels",
    6: "depthwise convolution without a bias",
    7: "hard sigmoid",
    8: "depthwise convolution with weights of 16 bits",
}


class InstructionLimits:
    """The limits of one DPU and of the sizes of its registers (number -> bytes)."""

    def __init__(self, target: Target, registers: Mapping[int, int]) -> None:
        self._target = target
        self._banks = Banks.of(target)
        self._registers = dict(registers)

    def broken_by(self, step: Step) -> Iterator[str]:
        """Sentences that begin with a verb; none when the DPU executes it."""
        beyond = [*_beyond_its_fields(step.instruction)]
        if beyond:
            yield from beyond
            return
        match step.instruction:
            case Load() as load:
                yield from self._load(load)
            case Save() as save:
                yield from self._save(save)
            case ConvInit() as init:
                yield from self._strides(init)
                yield from _at_most("valid_pixel_parallel", init.valid_pixel_parallel, self._banks.rows)
                yield from self._activation(init.act_type, self._target.leaky_in_conv)
                yield from _at_most("shift_bias", init.shift_bias, MAX_SHIFT_BIAS)
            case Conv() as conv:
                yield from self._conv(step, conv)
            case AluInit() as init:
                yield from self._alu_init(init)
            case Alu() as alu:
                yield from self._alu(step, alu)
            case ElewInit() as init:
                yield from self._feature_bank("bank_id_in", init.bank_id_in)
                yield from self._addresses(bank_addr_in=init.bank_addr_in)
                if init.share_pp:
                    yield "has share_pp = 1, rows that come from one bank: not known well enough to be executed"
            case Elew() as elew:
                yield from self._elew(step, elew)

    def _load(self, load: Load) -> Iterator[str]:
        yield from _at_most("bank_id", load.bank_id, self._banks.count - 1)
        yield from self._addresses(bank_addr=load.bank_addr)
        yield from self._transfer(load.length, load.channel)
        if load.mode_avg:
            yield f"has mode_avg = {load.mode_avg}, subtraction of a mean: not known well enough to be executed"
        if load.broadcast not in (0, BROADCAST):
            yield f"has broadcast = {load.broadcast}, expected 0 or {BROADCAST}"
        if (load.pad_start or load.pad_end) and not load.jump_read <= load.channel <= _MASKED_BYTES:
            yield (
                f"masks bytes of pieces of {load.channel} bytes, {load.jump_read} apart, "
                f"expected pieces that touch and have at most {_MASKED_BYTES} bytes"
            )
        if load.broadcast != BROADCAST:
            yield from self._range(load.reg_id, load.ddr_addr, (load.length - 1) * load.jump_read + load.channel)

    def _save(self, save: Save) -> Iterator[str]:
        yield from _at_most("bank_id", save.bank_id, self._banks.count - 1)
        yield from self._addresses(bank_addr=save.bank_addr)
        yield from self._transfer(save.length, save.channel)
        yield from _at_most("hp_id", save.hp_id, _PORTS - 1)
        if save.argmax:
            yield f"has argmax = {save.argmax}, the largest channel: not known well enough to be executed"
        if save.const_en:
            yield "has const_en = 1, a constant: not known well enough to be executed"
        yield from self._range(save.reg_id, save.ddr_addr, (save.length - 1) * save.jump_write + save.channel)

    def _conv(self, step: Step, conv: Conv) -> Iterator[str]:
        if not step.inits:
            yield "has no CONVINIT before it"
            return
        init = step.conv_init
        yield from self._feature_bank("bank_id_in", conv.bank_id_in)
        yield from self._feature_bank("bank_id_out", conv.bank_id_out)
        yield from self._window(Window.of_conv(init, conv))
        yield from self._addresses(
            bank_addr_out=conv.bank_addr_out, bank_addr_weights=conv.bank_addr_weights, bank_addr_bias=conv.bank_addr_bias
        )
        words = init.kernel_h * init.kernel_w * conv.channel_group
        if words > self._banks.depth:
            yield f"has {words} words of weights per output channel, a bank has {self._banks.depth}"

    def _alu_init(self, init: AluInit) -> Iterator[str]:
        yield from _at_most("stride_out", init.stride_out, _MAX_STRIDE_OUT)
        if init.exec_mode not in (_alu.DEPTHWISE, _alu.AVERAGE, _alu.MAXIMUM, _alu.LEAKY_RELU):
            yield f"has exec_mode = {init.exec_mode} ({_MODES.get(init.exec_mode, 'unknown')}), expected 0, 2, 3 or 4"
        if init.exec_mode == _alu.DEPTHWISE:
            yield from self._activation(init.act_type, self._target.leaky_in_depthwise)
            yield from _at_most("shift_bias", init.shift_bias, MAX_SHIFT_BIAS)
        elif init.act_type != NONE:
            yield f"has act_type = {init.act_type}, expected 0 behind anything but a depthwise convolution"
        sizes = (init.kernel_h, init.kernel_w, init.stride_h, init.stride_w)
        if init.exec_mode == _alu.LEAKY_RELU and sizes != (1, 1, 1, 1):
            yield f"has a window of {sizes[0]} x {sizes[1]} and strides {sizes[2]} and {sizes[3]}, expected 1 for leaky ReLU"

    def _alu(self, step: Step, alu: Alu) -> Iterator[str]:
        yield from _at_most("valid_pixel_parallel", alu.valid_pixel_parallel, self._target.alu_rows)
        yield from _at_most("kernel_d", alu.kernel_d, 1)
        if not step.inits:
            yield "has no ALUINIT before it"
            return
        init = step.alu_init
        yield from self._feature_bank("bank_id_in", alu.bank_id_in)
        yield from self._feature_bank("bank_id_out", alu.bank_id_out)
        yield from self._window(Window.of_alu(init, alu))
        yield from self._addresses(bank_addr_out=alu.bank_addr_out)
        if init.exec_mode == _alu.DEPTHWISE:
            yield from self._addresses(bank_addr_weights=alu.bank_addr_weights, bank_addr_bias=alu.bank_addr_bias)

    def _elew(self, step: Step, elew: Elew) -> Iterator[str]:
        ids = tuple(init.id for init in step.operands)
        if ids != tuple(range(elew.num)):
            yield f"has {elew.num} operands, the ELEWINITs before it are of operands {ids}"
        if elew.elew_type not in (_elementwise.SUM, _elementwise.PRODUCT):
            yield f"has elew_type = {elew.elew_type}, expected 0 (sum) or 1 (product)"
        if elew.elew_type == _elementwise.PRODUCT and elew.num != 2:
            yield f"is a product of {elew.num} operands, expected 2"
        yield from _at_most("valid_pixel_parallel", elew.valid_pixel_parallel, self._target.alu_rows)
        yield from self._feature_bank("bank_id_out", elew.bank_id_out)
        yield from self._addresses(bank_addr_out=elew.bank_addr_out)

    def _window(self, window: Window) -> Iterator[str]:
        rounds = window.rounds(self._banks)
        if rounds > WINDOW_ROUNDS:
            yield (
                f"reads {window.height} rows from bank {window.bank} on, which is {rounds} rounds through "
                f"{self._banks.rows} banks, expected at most {WINDOW_ROUNDS}"
            )
        for number, address in enumerate(window.addresses[:rounds]):
            yield from self._addresses(**{f"bank_addr_in_{number}" if number else "bank_addr_in": address})
        if window.channel_offset >= self._banks.lanes:
            yield f"has channel_offset = {window.channel_offset}, expected less than the {self._banks.lanes} of a word"

    def _strides(self, init: ConvInit) -> Iterator[str]:
        yield from _at_most("stride_h", init.stride_h, _MAX_STRIDE)
        yield from _at_most("stride_w", init.stride_w, _MAX_STRIDE)
        yield from _at_most("stride_out", init.stride_out, _MAX_STRIDE_OUT)

    def _activation(self, act_type: int, leaky: bool) -> Iterator[str]:
        known = (NONE, RELU, RELU6, LEAKY) if leaky else (NONE, RELU, RELU6)
        if act_type not in known:
            yield f"has act_type = {act_type}, expected one of {', '.join(map(str, sorted(known)))} on this DPU"

    def _feature_bank(self, field: str, bank: int) -> Iterator[str]:
        if bank >= self._banks.weights:
            yield f"has {field} = {bank}, expected a feature-map bank: 0..{self._banks.weights - 1}"

    def _addresses(self, **addresses: int) -> Iterator[str]:
        for field, address in addresses.items():
            yield from _at_most(field, address, self._banks.depth - 1)

    def _transfer(self, length: int, channel: int) -> Iterator[str]:
        words = length * self._banks.words(channel)
        if words > self._target.transfer_words:
            yield f"moves {words} words, expected at most {self._target.transfer_words}"

    def _range(self, register: int, start: int, size: int) -> Iterator[str]:
        if register not in self._registers:
            yield f"uses register {register}, there are {', '.join(map(str, sorted(self._registers))) or 'none'}"
        elif start + size > self._registers[register]:
            yield f"uses bytes {start}..{start + size - 1} of register {register}, which has {self._registers[register]}"


def _at_most(field: str, value: int, largest: int) -> Iterator[str]:
    if value > largest:
        yield f"has {field} = {value}, expected at most {largest}"


def _beyond_its_fields(instruction: Instruction) -> Iterator[str]:
    """What no encoding of the instruction has."""
    for field in type(instruction).fields():
        value = getattr(instruction, field.name)
        if not field.smallest <= value <= field.largest:
            yield f"asks for {field.name} {value}, of which its field has {field.smallest}..{field.largest}"
