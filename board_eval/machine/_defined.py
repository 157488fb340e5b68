"""Which lanes of which words hold something that somebody wrote."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, AluInit, Conv, Elew, Save
from edgesearch.board_eval.machine._accesses import Access
from edgesearch.board_eval.machine._alu import DEPTHWISE, bias_words, depthwise_words
from edgesearch.board_eval.machine._banks import Banks, Words
from edgesearch.board_eval.machine._convolution import weight_words
from edgesearch.board_eval.machine._elementwise import operand_words
from edgesearch.board_eval.machine._steps import Step
from edgesearch.board_eval.machine._windows import Window

__all__ = ["Defined"]

Lanes = npt.NDArray[np.uint32]


class Defined:
    """One bit per lane of every word.

    LOAD writes whole words. A CONV leaves lanes of output channels that the layer lacks as what the weights' banks happened to
    hold; ALU and ELEW hand such lanes on. They are faults where they count: in a CONV that does not mask them, in a SAVE.
    """

    def __init__(self, banks: Banks) -> None:
        self._banks = banks
        self._all = np.uint32((1 << banks.lanes) - 1)
        self._lanes: Lanes = np.zeros(banks.count * banks.depth, np.uint32)

    def missing(self, step: Step, access: Access) -> str:
        """One thing that an instruction reads and that nobody wrote, "" for none; then it counts as executed.

        What comes of a fault counts as written: it is reported once.
        """
        missing = self._missing(step, access)
        if access.written.size:
            self._lanes[access.written] = self._all if missing else self._result(step)
        return missing

    def _missing(self, step: Step, access: Access) -> str:
        conv = step.instruction if isinstance(step.instruction, Conv) else None
        missing = self._short(access.read, *self._counted(step))
        if conv is None:
            return missing or self._short(access.read_parameters, self._banks.lanes, empty_only=True)
        if missing or self._conv_lanes(step, conv):
            return missing
        bias = access.read_parameters[-1:]
        return self._short(bias, self._banks.lanes, empty_only=True) or self._named(access.read_parameters)

    def _counted(self, step: Step) -> tuple[int, bool]:
        """Channels of a pixel that must be there, and whether any one lane of a word is enough."""
        match step.instruction:
            case Conv() as conv:
                return conv.channel_group * self._banks.lanes - conv.channel_offset, False
            case Save() as save:
                return save.channel, False
        return self._banks.lanes, True

    def _short(self, places: Words, channels: int, empty_only: bool = False) -> str:
        """Names a word that lacks a lane which counts, of pixels of so many channels; or that lacks all."""
        lanes = self._lanes.take(places)
        if not lanes.size or lanes.min() == self._all:
            return ""
        if empty_only:
            return self._named(places[lanes == 0])
        words = self._banks.words(channels)
        need = np.full(words, self._all)
        need[-1] = (1 << channels - (words - 1) * self._banks.lanes) - 1
        return self._named(places.reshape(-1, words)[lanes.reshape(-1, words) & need != need])

    def _result(self, step: Step) -> Lanes | np.uint32:
        match step.instruction:
            case Conv() as conv:
                return np.uint32(self._conv_lanes(step, conv))
            case Alu() as alu:
                return self._alu(step.alu_init, alu)
            case Elew() as elew:
                each = [self._lanes[operand_words(self._banks, init, elew)].reshape(-1) for init in step.operands]
                return np.asarray(np.bitwise_and.reduce(each))
        return self._all

    def _conv_lanes(self, step: Step, conv: Conv) -> int:
        """Output lanes of which weights and bias are there."""
        weights = self._lanes.take(weight_words(self._banks, step.conv_init, conv))
        there = (weights == self._all).all(axis=1)
        bias = self._lanes[self._banks.biases * self._banks.depth + conv.bank_addr_bias]
        return int(bias) & sum(1 << lane for lane in np.flatnonzero(there).tolist())

    def _alu(self, init: AluInit, alu: Alu) -> Lanes:
        """Of every result, what all values of its window and all parameters have: (rows * columns * group,)."""
        window = Window.of_alu(init, alu)
        lanes = np.full((window.height, window.width, window.group), self._all)
        lanes[window.real_rows, window.real_columns] = self._lanes[window.words(self._banks)]
        lanes[..., -1] |= self._all & ~(self._all >> np.uint32(window.channel_offset))
        result = np.full((window.rows, window.columns, window.group), self._all)
        if lanes.min() != self._all:
            for row in range(window.kernel[0]):
                for column in range(window.kernel[1]):
                    result &= window.taps(lanes, row, column)
        if init.exec_mode == DEPTHWISE:
            weights = self._lanes[depthwise_words(self._banks, init, alu)].reshape(-1, window.group)
            result &= np.bitwise_and.reduce(weights) & self._lanes[bias_words(self._banks, init, alu)]
        return result.reshape(-1)

    def _named(self, words: Words) -> str:
        if not words.size:
            return ""
        bank, word = divmod(int(words.reshape(-1)[0]), self._banks.depth)
        return f"word {word} of bank {bank}, which nobody wrote"
