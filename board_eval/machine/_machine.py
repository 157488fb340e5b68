"""A DPU core that executes programs, instruction by instruction, in program order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, Conv, Elew, End, Instruction, Load, Save
from edgesearch.board_eval.machine._alu import alu
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._convolution import Convolution
from edgesearch.board_eval.machine._elementwise import elementwise
from edgesearch.board_eval.machine._limits import InstructionLimits
from edgesearch.board_eval.machine._steps import Step, steps
from edgesearch.board_eval.machine._transfers import load, save
from edgesearch.board_eval.targets import Target
from edgesearch.errors import InstructionError

__all__ = ["Machine", "simulate"]

Bytes = npt.NDArray[np.uint8] | npt.NDArray[np.int8]


class Machine:
    """The memories of one core, and the registers that point to external memory.

    `registers` are one-dimensional arrays of bytes by number, used as they are: SAVE writes into them. `memory` holds all
    banks, int8 (banks, words, lanes), zeros at first. Results are the DPU's integers, bit for bit; tokens and time play no
    part.
    """

    def __init__(self, target: Target, registers: Mapping[int, Bytes]) -> None:
        self._banks = Banks.of(target)
        self.memory = np.zeros((self._banks.count, self._banks.depth, self._banks.lanes), np.int8)
        self.registers = {number: array.view(np.uint8) for number, array in registers.items()}
        self._bytes = {number: array.view(np.int8) for number, array in registers.items()}
        self._words = self.memory.reshape(-1, self._banks.lanes)
        self._convolution = Convolution(self._banks, self._words)
        self._limits = InstructionLimits(target, {number: array.size for number, array in self.registers.items()})

    def run(self, program: Iterable[Instruction]) -> None:
        """Execute a program up to its END.

        Raises InstructionError, naming the position, for what the DPU does not have, and for addresses outside of a bank or
        of a register; earlier instructions have been executed then.
        """
        for step in steps(program):
            instruction = step.instruction
            for broken in self._limits.broken_by(step):
                raise InstructionError(f"instruction {step.position} ({instruction.MNEMONIC}) {broken}")
            if isinstance(instruction, Save) and not self._bytes[instruction.reg_id].flags.writeable:
                raise InstructionError(
                    f"instruction {step.position} (SAVE) writes register {instruction.reg_id}, the array of which is read-only"
                )
            if isinstance(instruction, End):
                return
            self._execute(step)

    def _execute(self, step: Step) -> None:
        banks, words = self._banks, self._words
        match step.instruction:
            case Load() as instruction:
                load(banks, words, self._bytes, instruction)
            case Save() as instruction:
                save(banks, words, self._bytes, instruction)
            case Conv() as instruction:
                self._convolution.run(step.conv_init, instruction)
            case Alu() as instruction:
                alu(banks, words, step.alu_init, instruction)
            case Elew() as instruction:
                elementwise(banks, words, step.operands, instruction)


def simulate(
    program: Iterable[Instruction], target: Target, registers: Mapping[int, Bytes]
) -> dict[int, npt.NDArray[np.uint8]]:
    """The registers after a program has run on a DPU whose banks hold zeros; those given stay as they are.

    Raises InstructionError as `Machine.run` does.
    """
    program = tuple(program)
    written = {instruction.reg_id for instruction in program if isinstance(instruction, Save)}
    copies = {number: array.copy() if number in written else array for number, array in registers.items()}
    machine = Machine(target, copies)
    machine.run(program)
    return machine.registers
