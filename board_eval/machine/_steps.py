"""Instructions together with the settings that earlier ones made for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, ElewInit, Instruction

__all__ = ["Step", "steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a program, and the INITs that it depends on: none where the program gives none."""

    position: int
    instruction: Instruction
    inits: tuple[Instruction, ...] = ()

    @property
    def conv_init(self) -> ConvInit:
        """The settings of a CONV."""
        (init,) = self.inits
        assert isinstance(init, ConvInit)
        return init

    @property
    def alu_init(self) -> AluInit:
        """The settings of an ALU."""
        (init,) = self.inits
        assert isinstance(init, AluInit)
        return init

    @property
    def operands(self) -> tuple[ElewInit, ...]:
        """The operands of an ELEW, in the order of the program."""
        return tuple(init for init in self.inits if isinstance(init, ElewInit))


def steps(program: Iterable[Instruction]) -> Iterator[Step]:
    """Every instruction, in program order. An ELEW uses up its operands; other settings hold until the next ones."""
    conv: tuple[Instruction, ...] = ()
    alu: tuple[Instruction, ...] = ()
    operands: tuple[Instruction, ...] = ()
    for position, instruction in enumerate(program):
        match instruction:
            case ConvInit():
                conv = (instruction,)
            case AluInit():
                alu = (instruction,)
            case ElewInit():
                operands = (*operands, instruction)
            case Conv():
                yield Step(position, instruction, conv)
                continue
            case Alu():
                yield Step(position, instruction, alu)
                continue
            case Elew():
                yield Step(position, instruction, operands)
                operands = ()
                continue
        yield Step(position, instruction)
