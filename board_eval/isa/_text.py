"""Programs as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgesearch.board_eval.isa._field import Engine, Instruction

__all__ = ["disassemble", "disassembly_json"]

_ORDER = ("dpdon", "dpdby")


def disassemble(program: Iterable[Instruction]) -> Iterator[str]:
    """One line per instruction: byte offset, mnemonic, tokens that it takes (<) and gives (>), fields whose bits are not all 0.

    Engines are L(OAD), S(AVE), C(ONV) and M(ISC).
    """
    offset = 0
    for instruction in program:
        shown = " ".join(
            f"{field.name}={value}"
            for field in instruction.fields()
            if field.name not in _ORDER and (value := getattr(instruction, field.name)) != field.smallest
        )
        takes, gives = _letters(instruction.dpdon), _letters(instruction.dpdby)
        yield f"{offset:08x}  {instruction.MNEMONIC:8s} <{takes} >{gives}  {shown}".rstrip()
        offset += 4 * instruction.WORDS


def disassembly_json(program: Iterable[Instruction]) -> list[dict[str, Any]]:
    """Every instruction with its byte offset and all its fields."""
    out, offset = [], 0
    for instruction in program:
        fields = {field.name: getattr(instruction, field.name) for field in instruction.fields()}
        out.append({"offset": offset, "instruction": instruction.MNEMONIC, **fields})
        offset += 4 * instruction.WORDS
    return out


def _letters(mask: int) -> str:
    return "".join(engine.name[0] if mask >> engine & 1 else "-" for engine in Engine)
