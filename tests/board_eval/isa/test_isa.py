from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.board_eval.isa import (
    INSTRUCTIONS,
    Conv,
    ConvInit,
    ElewInit,
    End,
    Engine,
    Instruction,
    Load,
    Save,
    decode,
    disassemble,
    disassembly_json,
    encode,
)
from edgesearch.errors import InstructionError

KINDS = tuple(INSTRUCTIONS.values())


@st.composite
def instructions(draw: st.DrawFn, kind: type[Instruction]) -> Instruction:
    return kind(**{spec.name: draw(st.integers(spec.smallest, spec.largest)) for spec in kind.fields()})


programs = st.lists(st.sampled_from(KINDS).flatmap(instructions), max_size=6).map(lambda found: (*found, End()))


@given(programs)
def test_decoding_gives_back_what_was_encoded(program: tuple[Instruction, ...]) -> None:
    code = encode(program)
    assert decode(code) == program
    assert encode(decode(code)) == code
    assert len(code) == 4 * sum(instruction.WORDS for instruction in program)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.MNEMONIC)
def test_every_field_has_bits_of_its_own(kind: type[Instruction]) -> None:
    """A field at its largest value sets all its bits and nobody else's; the opcode lies in the highest four of word 0."""
    plain = np.frombuffer(encode([kind()]), "<u4")
    assert plain[0] == kind.OPCODE << 28
    assert not plain[1:].any()
    taken = np.zeros(kind.WORDS, np.uint32)
    taken[0] = 0xF << 28
    for spec in kind.fields():
        bits = np.frombuffer(encode([kind(**{spec.name: spec.largest})]), "<u4") ^ plain
        expected = np.zeros(kind.WORDS, np.uint32)
        expected[spec.word] = ((1 << spec.high - spec.low + 1) - 1) << spec.low
        np.testing.assert_array_equal(bits, expected)
        assert not (taken & bits).any()
        taken |= bits


def test_words_of_known_instructions() -> None:
    """As files of AMD's compiler have them."""
    assert encode([End(dpdon=2, dpdby=2)]) == (0x72200000).to_bytes(4, "little")
    load = Load(dpdon=1, dpdby=5, bank_id=33, bank_addr=118, length=1, channel=256, jump_read=256, ddr_addr=507904)
    words = np.frombuffer(encode([load]), "<u4").tolist()
    assert words == [0x0158_4076 | 0 << 28, 255 << 10, 255 << 10, 0, 507904]


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        (Load(channel=0), "channel = 0, expected 1..16384"),
        (Load(channel=16385), "channel = 16385, expected 1..16384"),
        (Save(ddr_addr=1 << 29), "ddr_addr = 536870912, expected 0..536870911"),
        (ConvInit(stride_h=17), "stride_h = 17, expected 1..16"),
        (Conv(pad_left=-1), "pad_left = -1, expected 0..15"),
        (ElewInit(dpdon=16), "dpdon = 16, expected 0..15"),
    ],
)
def test_values_that_a_field_does_not_hold_are_refused(instruction: Instruction, named: str) -> None:
    with pytest.raises(InstructionError, match="instruction 1") as error:
        encode([End(), instruction])
    assert named in str(error.value)
    assert instruction.MNEMONIC in str(error.value)


@pytest.mark.parametrize("opcode", sorted(set(range(16)) - set(INSTRUCTIONS)))
def test_an_unknown_opcode_is_named_with_its_place(opcode: int) -> None:
    with pytest.raises(InstructionError, match=f"opcode 0x{opcode:X} at byte 20"):
        decode(encode([Load()]) + (opcode << 28).to_bytes(4, "little") + encode([End()]))


def test_bits_that_no_field_names_are_refused() -> None:
    words = np.frombuffer(encode([Load(), End()]), "<u4").copy()
    words[4] |= 1 << 30
    with pytest.raises(InstructionError, match=r"LOAD at byte 0 has bits 0x40000000 in word 4"):
        decode(words.tobytes())


@given(programs, st.data())
def test_code_that_was_cut_off_is_refused(program: tuple[Instruction, ...], data: st.DataObject) -> None:
    """Unless it is cut behind another END, where a program may end."""
    code = encode(program)
    at = data.draw(st.integers(0, len(code) - 1))
    ends = {4 * sum(i.WORDS for i in program[: n + 1]) for n, i in enumerate(program) if isinstance(i, End)}
    if at in ends:
        assert encode(decode(code[:at])) == code[:at]
    else:
        with pytest.raises(InstructionError, match="cut off"):
            decode(code[:at])


def test_engines_and_tokens() -> None:
    load = Load(dpdon=0b0101, dpdby=0b1001)
    assert load.takes(Engine.CONV)
    assert not load.takes(Engine.LOAD)
    assert load.gives(Engine.MISC)
    assert not load.gives(Engine.CONV)


def test_disassembly_tells_offset_tokens_and_fields() -> None:
    program = (Load(dpdon=1, dpdby=5, bank_id=3, length=2, ddr_addr=9), ConvInit(dpdon=4, dpdby=4), End(dpdon=2, dpdby=2))
    lines = list(disassemble(program))
    assert lines == [
        "00000000  LOAD     <L--- >L-C-  bank_id=3 length=2 ddr_addr=9",
        "00000014  CONVINIT <--C- >--C-",
        "00000024  END      <-S-- >-S--",
    ]


@given(programs)
def test_disassembly_json_holds_the_whole_program(program: tuple[Instruction, ...]) -> None:
    listing = json.loads(json.dumps(disassembly_json(program)))
    kinds = {kind.MNEMONIC: kind for kind in KINDS}
    back = []
    offset = 0
    for entry in listing:
        assert entry.pop("offset") == offset
        back.append(kinds[entry.pop("instruction")](**entry))
        offset += 4 * back[-1].WORDS
    assert tuple(back) == program
