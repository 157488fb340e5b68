from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, ElewInit, End, Engine, Instruction, Load, Save
from edgesearch.board_eval.machine import Fault, FaultKind, accesses, check
from edgesearch.board_eval.targets import DPUS

from ._compiled import read_compiled
from ._small import CONSTANT, INPUT, OUTPUT, SIZES, TARGET, bits, small_program

Program = tuple[Instruction, ...]
PROGRAM = small_program()


def find(kind: type[Instruction], number: int = 0) -> int:
    return [position for position, instruction in enumerate(PROGRAM) if isinstance(instruction, kind)][number]


CONV, ELEW, FIRST_SAVE, ROW, BACK, OUT = find(Conv), find(Elew), find(Save), find(Load, 9), find(Load, 11), find(Save, 2)


def faults(program: Program, **settings: Any) -> tuple[Fault, ...]:
    return check(program, TARGET, SIZES, constants=[CONSTANT], inputs=[INPUT], **settings)


def edited(*edits: tuple[int, dict[str, int]]) -> Program:
    program = list(PROGRAM)
    for position, values in edits:
        program[position] = replace(program[position], **values)
    return tuple(program)


def without_tokens(giver: int, taker: int) -> Program:
    """The program without the token between two instructions."""
    given, taken = PROGRAM[giver], PROGRAM[taker]
    return edited(
        (giver, {"dpdby": given.dpdby & ~(1 << taken.ENGINE)}), (taker, {"dpdon": taken.dpdon & ~(1 << given.ENGINE)})
    )


def test_the_small_program_has_no_faults() -> None:
    assert faults(PROGRAM, unused=True) == ()


@pytest.mark.parametrize(
    ("giver", "taker", "sentence"),
    [
        (
            ROW + 1,
            CONV,
            f"instruction {CONV} (CONV) does not wait for instruction {ROW + 1} (LOAD), which writes word 0 of bank 1",
        ),
        (CONV, ELEW, f"instruction {ELEW} (ELEW) does not wait for instruction {CONV} (CONV), which writes word 0 of bank 4"),
        (ELEW, FIRST_SAVE, f"(SAVE) does not wait for instruction {ELEW} (ELEW), which writes word 9 of bank 0"),
        (FIRST_SAVE + 1, BACK, f"instruction {BACK} (LOAD) does not wait for instruction {FIRST_SAVE} (SAVE)"),
        (FIRST_SAVE + 1, BACK, f"instruction {BACK} (LOAD) does not wait for instruction {CONV} (CONV), which writes word 0"),
        (FIRST_SAVE + 1, BACK, f"instruction {BACK} (LOAD) does not wait for instruction {ELEW} (ELEW), which reads word 0"),
        (BACK + 1, OUT, f"instruction {OUT} (SAVE) does not wait for instruction {BACK} (LOAD), which writes word 0 of bank 4"),
    ],
)
def test_every_order_that_is_missing_is_found(giver: int, taker: int, sentence: str) -> None:
    found = [fault for fault in faults(without_tokens(giver, taker)) if fault.kind is FaultKind.ORDER]
    assert any(sentence in str(fault) for fault in found), [str(fault) for fault in found]


def test_a_token_given_too_early_is_no_order() -> None:
    """The first row's LOAD gives the token, the second row's does not."""
    program = edited((ROW, {"dpdby": PROGRAM[ROW + 1].dpdby}), (ROW + 1, {"dpdby": PROGRAM[ROW].dpdby}))
    (found,) = faults(program)
    assert found.kind is FaultKind.ORDER
    assert found.position == CONV
    assert f"wait for instruction {ROW + 1} (LOAD)" in str(found)


def add(position: int, instruction: Instruction) -> Program:
    return (*PROGRAM[:position], instruction, *PROGRAM[position:])


@pytest.mark.parametrize(
    ("program", "kind", "position", "sentence"),
    [
        (edited((CONV, {"dpdby": 4})), "tokens", ELEW, "takes a token of CONV that no earlier instruction gives"),
        (edited((CONV, {"dpdby": 4})), "deadlock", ELEW, "(ELEW) waits for tokens for ever"),
        (edited((ELEW, {"dpdon": 8})), "tokens", len(PROGRAM) - 1, "1 tokens of CONV for MISC are never taken"),
        (edited((0, {"dpdon": 0})), "own bits", 0, "lacks the bit of its own engine"),
        (edited((OUT, {"hp_id": 1})), "own bits", OUT, "uses port 1 and is no half of a pair"),
        (edited((FIRST_SAVE, {"hp_id": 1})), "own bits", FIRST_SAVE, "lacks the bit of its own engine"),
        (edited((FIRST_SAVE, {"dpdby": 1})), "own bits", FIRST_SAVE, "lacks the bit of its own engine"),
        (edited((FIRST_SAVE + 1, {"ddr_addr": 8})), "order", FIRST_SAVE + 1, f"wait for instruction {FIRST_SAVE} (SAVE)"),
        (edited((CONV, {"bank_id_in": 9})), "limit", CONV, "expected a feature-map bank"),
        (edited((ELEW - 1, {"bank_id_in": 20})), "limit", ELEW - 1, "expected a feature-map bank"),
        (edited((0, {"ddr_addr": 65})), "limit", 0, "uses bytes 65..72 of register 0, which has 72"),
        (edited((OUT, {"reg_id": CONSTANT})), "constant", OUT, "writes register 0, which holds constants"),
        (edited((CONV, {"bank_addr_in": 1})), "unwritten", CONV, "reads word 3 of bank 0, which nobody wrote"),
        (edited((CONV, {"bank_addr_bias": 1})), "unwritten", CONV, "reads word 1 of bank 17, which nobody wrote"),
        (edited((CONV, {"bank_addr_weights": 1})), "unwritten", CONV, "reads word 1 of bank 8, which nobody wrote"),
        (edited((BACK, {"reg_id": OUTPUT})), "unwritten", BACK, "reads byte 0 of register 3, which nobody wrote"),
        (PROGRAM[:-1], "end", len(PROGRAM) - 2, "does not end with END"),
        (add(3, End(**bits(Engine.SAVE))), "end", 3, "is not the last instruction"),
        (add(BACK + 2, ConvInit(**bits(Engine.CONV))), "end", BACK + 2, "END does not wait for"),
    ],
)
def test_faults(program: Program, kind: str, position: int, sentence: str) -> None:
    found = faults(program)
    assert any(f.kind == kind and f.position == position and sentence in str(f) for f in found), [
        (f.kind.value, f.position, str(f)) for f in found
    ]


def test_waste_is_told_on_request() -> None:
    program = edited((0, {"length": 2, "jump_read": 1}))
    assert faults(program) == ()
    (found,) = faults(program, unused=True)
    assert (found.position, found.kind) == (0, FaultKind.UNUSED)


def test_many_waiting_tokens_are_a_warning() -> None:
    """Rows that are loaded far ahead, each with a token of its own."""
    loads = [Load(**bits(Engine.LOAD, gives="S"), bank_id=bank, reg_id=INPUT) for bank in range(3)]
    saves = [Save(**bits(Engine.SAVE, takes="L"), bank_id=bank, reg_id=OUTPUT, ddr_addr=bank) for bank in range(3)]
    program = (*loads, *saves, End(**bits(Engine.SAVE)))
    assert faults(program) == ()
    assert faults(program, max_tokens=3) == ()
    assert faults(program, max_tokens=None) == ()
    (found,) = faults(program, max_tokens=2)
    assert (found.position, found.kind) == (2, FaultKind.QUEUE)
    assert "more than 2 tokens of LOAD wait for SAVE" in str(found)


def test_lanes_of_channels_that_are_not_there() -> None:
    """Weights of five of eight output channels: the others may be read where they are masked or cut off, and nowhere else."""

    def program(channel_offset: int, channel: int) -> Program:
        start = [Load(**bits(Engine.LOAD), bank_id=17, channel=8, jump_read=8)]
        start += [Load(**bits(Engine.LOAD), bank_id=8 + lane, channel=8, jump_read=8) for lane in range(5)]
        start += [Load(**bits(Engine.LOAD, gives="C"), bank_id=0, channel=8, jump_read=8, reg_id=INPUT)]
        convs: list[Instruction] = [ConvInit(**bits(Engine.CONV))]
        convs += [Conv(**bits(Engine.CONV, "L"), bank_id_out=4, pad_right=15, pad_bottom=15)]
        convs += [
            Conv(
                **bits(Engine.CONV, gives="M"),
                **{"bank_id_in": 4, "bank_id_out": 0, "bank_addr_out": 1, "pad_right": 15, "pad_bottom": 15},
                channel_offset=channel_offset,
            )
        ]
        pool: list[Instruction] = [AluInit(**bits(Engine.MISC), exec_mode=3)]
        pool += [Alu(**bits(Engine.MISC, "C"), bank_id_out=5, pad_right=255, pad_bottom=255, bank_addr_in=1)]
        copy: list[Instruction] = [ElewInit(**bits(Engine.MISC), bank_id_in=5)]
        copy += [Elew(**bits(Engine.MISC, gives="S"), bank_id_out=6)]
        save = Save(**bits(Engine.SAVE, "M"), bank_id=6, channel=channel, reg_id=OUTPUT)
        return (*start, *convs, *pool, *copy, save, End(**bits(Engine.SAVE)))

    assert faults(program(3, 5)) == ()
    (unmasked,) = faults(program(2, 5))
    assert (unmasked.position, unmasked.kind) == (9, FaultKind.UNWRITTEN)
    (uncut,) = faults(program(3, 6))
    assert (uncut.position, uncut.kind) == (14, FaultKind.UNWRITTEN)


def test_accesses_are_without_padding_and_what_a_stride_leaves_out() -> None:
    init = ConvInit(kernel_h=1, kernel_w=3, stride_h=2, stride_w=1, valid_pixel_parallel=2, jump_read_endl=9)
    conv = Conv(
        bank_id_in=1, bank_addr_in=5, length=4, bank_id_out=7, bank_addr_out=2047, pad_left=1, pad_right=1, pad_bottom=0
    )
    mask = Load(bank_id=2, length=3, channel=8, jump_read=4, reg_id=1, ddr_addr=100, pad_start=6, pad_end=1)
    *_, convolved, loaded = accesses([init, conv, mask], DPUS["B512"])
    # Rows 0 and 2 begin banks 1 and 2; of columns 0..5 the first and the last are padding.
    assert convolved.read.tolist() == [bank * 2048 + word for bank in (1, 2) for word in (6, 7, 8, 9)]
    assert convolved.read_parameters.tolist() == [bank * 2048 + tap for bank in range(8, 16) for tap in range(3)] + [17 * 2048]
    # The second row goes round to the group's first bank, one line further.
    assert convolved.written.tolist() == [7 * 2048 + word for word in (2047, 0, 1, 2)] + [4 * 2048 + word for word in range(4)]
    # The first piece lacks 6 bytes at its start, the second 2, the last 1 at its end.
    assert loaded.read_bytes.tolist() == [106, 107, *range(106, 112), *range(108, 115)]
    assert loaded.register == 1
    assert loaded.written.tolist() == [2 * 2048 + word for word in range(3)]


FILES = ("SqueezeNet_ptq_zcu104", "ResNet50_095_zcu104", "MobileNetV2_ptq_zcu104", "yolox_nano_B512", "yolox_nano_B2304")


@pytest.mark.parametrize("name", FILES)
def test_amds_programs_have_no_faults(reference_data: Path, name: str) -> None:
    compiled = read_compiled(reference_data / "compiled" / f"{name}.xmodel")
    settings: dict[str, Any] = {"constants": [0], "inputs": [2], "unused": True}
    assert check(compiled.program, compiled.target, compiled.sizes, max_tokens=None, **settings) == ()
    queues = check(compiled.program, compiled.target, compiled.sizes, **settings)
    assert {fault.kind for fault in queues} <= {FaultKind.QUEUE}


def test_faults_come_in_the_order_of_the_program() -> None:
    found = faults(edited((CONV, {"dpdby": 4}), (0, {"dpdon": 0}), (OUT, {"reg_id": 7})))
    assert [fault.position for fault in found] == sorted(fault.position for fault in found)
    assert {fault.kind for fault in found} >= {FaultKind.OWN_BITS, FaultKind.DEADLOCK, FaultKind.LIMIT}


@pytest.mark.parametrize(("field", "value"), [("kernel_h", 0), ("kernel_w", -1), ("jump_read", 1 << 20)])
def test_what_no_field_holds_is_a_fault(field: str, value: int) -> None:
    position = next(place for place, one in enumerate(PROGRAM) if any(each.name == field for each in type(one).fields()))
    found = faults(edited((position, {field: value})))
    assert any(f"asks for {field} {value}, of which its field has" in str(fault) for fault in found)
    assert all(fault.kind is FaultKind.LIMIT for fault in found if field in str(fault))
