"""The code of a network while it is written: steps, the settings in force, and the rings that parameters go round in."""

from __future__ import annotations

from edgesearch.board_eval.compiler._parameters import Parameters, Ring
from edgesearch.board_eval.compiler._rows import Span, ceil_div
from edgesearch.board_eval.compiler._step import Step, Stream
from edgesearch.board_eval.compiler._transfer import Transfer, loads
from edgesearch.board_eval.isa import AluInit, ConvInit, Instruction
from edgesearch.board_eval.machine import Banks
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.xmodel import PARAMETERS

__all__ = ["Code"]


class Code:
    """Steps in an order in which they can be executed one by one."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.steps: list[Step] = []
        self.parameters = Parameters()
        self.layer = 0
        banks = Banks.of(target)
        self.weight_bank, self.depthwise_bank, self.bias_bank = banks.weights, banks.depthwise, banks.biases
        self.weights, self.depthwise, self.biases = (Ring(target.bank_words) for _ in range(3))
        self._settings: dict[Stream, Instruction] = {}

    def set(self, settings: ConvInit | AluInit) -> None:
        """Settings for what follows, unless they are in force already."""
        stream = Stream.CONV if isinstance(settings, ConvInit) else Stream.MISC
        if self._settings.get(stream) != settings:
            self._settings[stream] = settings
            self.steps.append(Step(settings, stream, self.layer))

    def add(self, instruction: Instruction, stream: Stream, reads: list[Span], writes: list[Span]) -> None:
        """An instruction that works on banks."""
        self.steps.append(Step(instruction, stream, self.layer, tuple(reads), tuple(writes)))

    def load_bias(self, address: int, channels: int) -> int:
        """LOADs of biases; returns their first word."""
        words = ceil_div(channels, self.target.output_parallel)
        word = self.biases.take(words)
        self._parameters(Transfer(PARAMETERS, address, channels, self.bias_bank, word, words, 1, channels))
        return word

    def load_weights(self, address: int, lanes: int, taps: int, channels: int, *, part: int | None = None) -> int:
        """LOADs of the weights of `lanes` output channels, each in a bank of its own; returns their first word.

        `channels` values of each of `taps` pixels of the kernel follow one another in memory; `part` of them are loaded. CONVs
        read all banks alike, so the first LOAD waits for all of them, and the last one is waited for: those between need no
        look of their own.
        """
        size = channels if part is None else part
        pixel = ceil_div(size, self.target.input_parallel)
        word = self.weights.take(taps * pixel)
        first = len(self.steps)
        for lane in range(lanes):
            start = address + lane * taps * channels
            self._parameters(Transfer(PARAMETERS, start, channels, self.weight_bank + lane, word, pixel, taps, size))
        for step in self.steps[first:]:
            step.writes = ()
        self.steps[first].writes = self.steps[-1].writes = (Span(self.weight_bank, word, taps * pixel, lanes),)
        return word

    def load_depthwise(self, address: int, taps: int, pitch: int, channels: int) -> int:
        """LOADs of `channels` of the `pitch` channels of a depthwise kernel; returns their first word."""
        pixel = ceil_div(channels, self.target.input_parallel)
        word = self.depthwise.take(taps * pixel)
        self._parameters(Transfer(PARAMETERS, address, pitch, self.depthwise_bank, word, pixel, taps, channels))
        return word

    def _parameters(self, transfer: Transfer) -> None:
        self.steps += loads(transfer, Stream.PARAMETERS, self.layer, self.target)
