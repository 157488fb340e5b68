"""From placed layers to steps: blocks of channels, tiles of columns, stripes of rows, groups of channels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeAlias

from edgesearch.board_eval.compiler._code import Code
from edgesearch.board_eval.compiler._legal import mean_factor
from edgesearch.board_eval.compiler._operands import AugmentedFeed, Feed, Sink
from edgesearch.board_eval.compiler._operations import Result, Sliding, convolve, elementwise, slide
from edgesearch.board_eval.compiler._parameters import Arithmetic, Bytes, arithmetic
from edgesearch.board_eval.compiler._plan import LayerPlan, Plan, Tile
from edgesearch.board_eval.compiler._prepare import is_thinning
from edgesearch.board_eval.compiler._rows import Rows, ceil_div
from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Graph, Linear, Node, Pool
from edgesearch.board_eval.isa import AluInit
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Window, read_words
from edgesearch.errors import CompileError

__all__ = ["write_code"]

#: Shifts of the elementwise engine: operands to the right, the result to the left and to the right.
_SHIFT_READ, _SHIFT_LEFT, _SHIFT_RIGHT = 15, 15, 15
#: Shifts of pooling: to the left, and to the right.
_POOL_LEFT, _POOL_RIGHT = 7, 55

_Integers: TypeAlias = tuple[Arithmetic, Bytes | None, Bytes | None]


def write_code(plan: Plan, target: Target) -> Code:
    """The steps of a plan, in an order in which they can be executed one by one, and its constants."""
    code = Code(target)
    for number, layer in enumerate(plan.layers):
        code.layer = number
        _LayerWriter(code, plan.graph, layer, target).write()
    return code


@dataclass
class _Loaded:
    """First words of the parameters that a block of channels has on chip: loaded with its first tile, good for all."""

    bias: int | None = None
    #: Group -> word.
    weights: dict[int, int] = field(default_factory=dict)
    #: Weights and bias of a depthwise convolution.
    depthwise: tuple[int, int] | None = None


class _LayerWriter:
    def __init__(self, code: Code, graph: Graph, plan: LayerPlan, target: Target) -> None:
        self.code, self.graph, self.plan, self.target = code, graph, plan, target
        self.layer = plan.layer
        self.fix_in = graph.fix_of(self.plan.main.inputs[0]) or 0
        self.fix_main = self.plan.main.fix or 0
        self.fix_out = ((plan.post or plan.main).fix) or 0
        self._arithmetic: dict[str, _Integers] = {}

    def write(self) -> None:
        for block in self.plan.blocks:
            loaded = _Loaded()
            for tile in self.plan.tiles:
                feed = self._source(block, tile)
                if self.layer.kind == "conv":
                    self._convolution(block, tile, feed, loaded)
                elif self.layer.kind == "copy":
                    self._copy(block, tile, feed)
                else:
                    self._alone(block, tile, feed, loaded)

    def arithmetic(
        self, node: Conv | Linear | Depthwise, fix_in: int, fix: int
    ) -> tuple[Arithmetic, Bytes | None, Bytes | None]:
        """Shifts and integers of a node, worked out once."""
        if node.name not in self._arithmetic:
            self._arithmetic[node.name] = arithmetic(node, fix_in, fix)
        return self._arithmetic[node.name]

    # -- operands

    def _channels(self, block: range, channels: int) -> tuple[int, int]:
        """The first channel of a block of words, and how many there are."""
        lanes = self.target.input_parallel
        return block.start * lanes, min(channels, block.stop * lanes) - block.start * lanes

    def _source(self, block: range, tile: Tile) -> Feed:
        source, plan = self.plan.source, self.plan
        channels = self.layer.in_shape[2]
        if source.external is None:
            return Feed(self.code, source.rows, None)
        if plan.augmented:
            conv = plan.main
            assert isinstance(conv, Conv)
            pixel = ceil_div(self.layer.window.kernel[1] * channels, self.target.input_parallel)
            conv = dataclasses.replace(conv, stride=self.layer.window.stride, padding=self.layer.window.padding)
            return AugmentedFeed(self.code, source.of(tile.mid, pixel), source.external, conv)
        if self.layer.kind == "conv":
            pixel = ceil_div(channels, self.target.input_parallel)
            return Feed(self.code, source.of(tile.read, pixel), source.external, channels=channels)
        first, size = self._channels(block, channels)
        return Feed(self.code, source.of(tile.read, len(block)), source.external, first_channel=first, channels=size)

    def _skip(self, block: range, tile: Tile) -> Feed:
        skip = self.plan.skip
        assert skip is not None
        if skip.external is None:
            return Feed(self.code, skip.rows, None)
        first, size = self._channels(block, self.layer.out_shape[2])
        return Feed(self.code, skip.of(tile.out, len(block)), skip.external, first_channel=first, channels=size)

    def _output(self, block: range, tile: Tile) -> tuple[Result, Sink]:
        output = self.plan.output
        first, size = self._channels(block, self.layer.out_shape[2])
        rows = output.of(tile.out, len(block))
        word = 0 if output.external is not None else block.start
        return Result(rows, word, len(block)), Sink(self.code, rows, output.external, first_channel=first, channels=size)

    # -- convolutions

    def _convolution(self, block: range, tile: Tile, feed: Feed, loaded: _Loaded) -> None:
        plan, layer, parallel = self.plan, self.layer, self.target.pixel_parallel
        main = plan.main
        assert isinstance(main, Conv | Linear)
        how, values, bias = self.arithmetic(main, self.fix_in, self.fix_main)
        result, sink = self._output(block, tile)
        behind = None
        target = result
        if plan.post is not None:
            assert plan.middle is not None
            rows = dataclasses.replace(plan.middle, columns=len(tile.mid), first_column=tile.mid.start, pixel=len(block))
            target = Result(rows, 0, len(block))
            behind = _Behind(self, block, tile, rows, result, sink, loaded)
        window = layer.window
        shape = layer.in_shape
        if plan.augmented:
            window = Window((window.kernel[0], 1), (window.stride[0], 1), (0, 0, *window.padding[2:]))
            shape = (shape[0], layer.mid_shape[1], layer.window.kernel[1] * shape[2])
        sliding = Sliding(feed.rows, window, shape, 0, feed.rows.pixel)
        if loaded.bias is None:
            loaded.bias = self._bias(main, block, bias)
        for top in range(0, layer.mid_shape[0], parallel):
            out = range(top, min(top + parallel, layer.mid_shape[0]))
            feed.need(sliding.inputs(out.start, out.stop))
            for group in block:
                if group not in loaded.weights:
                    loaded.weights[group] = self._weights(main, group, values)
                first = group - block.start if target is not result or plan.output.external is not None else group
                one = Result(target.rows, first, 1)
                bias_at = (loaded.bias + group - block.start) % self.target.bank_words
                part = sliding
                if not plan.augmented:
                    read = read_words(layer, group, self.target)
                    part = dataclasses.replace(sliding, first_word=read.start, words=len(read))
                convolve(self.code, layer.name, part, one, how, out, tile.mid, loaded.weights[group], bias_at)
            if behind is None:
                sink.put(out, tile.out)
            else:
                behind.advance(out.stop)

    def _bias(self, node: Conv | Linear | Depthwise, block: range, values: Bytes | None) -> int:
        size = node.shape[-1]
        address = self.code.parameters.add(node.name, "bias", size, values)
        first, channels = self._channels(block, size)
        return self.code.load_bias(address + first, channels)

    def _weights(self, node: Conv | Linear, group: int, values: Bytes | None) -> int:
        kernel_h, kernel_w = self.layer.window.kernel
        channels = self.layer.in_shape[2]
        lanes = self.target.output_parallel
        size = kernel_h * kernel_w * channels
        address = self.code.parameters.add(node.name, "weights", node.shape[-1] * size, values)
        count = min(lanes, node.shape[-1] - group * lanes)
        first = address + group * lanes * size
        if self.plan.augmented:
            return self.code.load_weights(first, count, kernel_h, kernel_w * channels)
        read, word = read_words(self.layer, group, self.target), self.target.input_parallel
        part = range(read.start * word, min(read.stop * word, channels))
        return self.code.load_weights(first + part.start, count, kernel_h * kernel_w, channels, part=len(part))

    # -- everything else

    def _copy(self, block: range, tile: Tile, feed: Feed) -> None:
        first, size = self._channels(block, self.layer.out_shape[2])
        sink = Sink(self.code, feed.rows, self.plan.output.external, first_channel=first, channels=size)
        for row in range(self.layer.out_shape[0]):
            feed.need([row])
            sink.put([row], tile.out, first_word=block.start if feed.external is None else 0)

    def _alone(self, block: range, tile: Tile, feed: Feed, loaded: _Loaded) -> None:
        result, sink = self._output(block, tile)
        behind = _Behind(self, block, tile, feed.rows, result, sink, loaded, feed=feed)
        behind.advance(self.layer.in_shape[0])


class _Behind:
    """What the elementwise engine and the ALU do: behind a convolution, rows as they are made; or alone."""

    def __init__(
        self,
        writer: _LayerWriter,
        block: range,
        tile: Tile,
        rows: Rows,
        result: Result,
        sink: Sink,
        loaded: _Loaded,
        *,
        feed: Feed | None = None,
    ) -> None:
        self.writer, self.block, self.tile, self.result = writer, block, tile, result
        self.sink, self.loaded, self.feed = sink, loaded, feed
        plan, layer = writer.plan, writer.layer
        self.code, self.layer, self.target = writer.code, layer, writer.target
        self.node: Node = plan.post if plan.post is not None else plan.main
        fused = plan.post is not None
        self.fix_in = writer.fix_main if fused else writer.fix_in
        self.window = layer.post_window if fused else layer.window
        if layer.kind == "downsample":
            self.fix_out = self.fix_in
        else:
            self.fix_out = writer.fix_out
        first_word = block.start if feed is not None and feed.external is None else 0
        self.sliding = Sliding(rows, self.window, layer.mid_shape if fused else layer.in_shape, first_word, len(block))
        self.skip = writer._skip(block, tile) if plan.skip is not None else None
        self.done = 0
        self.elementwise = layer.kind == "downsample" or _by_elements(self.node)
        self.step = self.target.alu_rows
        if self.elementwise and result.rows.stride > 1:
            self.step = min(self.step * result.rows.stride, self.target.pixel_parallel)  # a ring holds no more rows

    def advance(self, made: int) -> None:
        """Everything that can be done once `made` rows of the operand are there."""
        layer = self.layer
        height = layer.out_shape[0]
        while self.done < height:
            out = range(self.done, min(self.done + self.step, height))
            needed = self.sliding.inputs(out.start, out.stop)
            if needed and needed[-1] >= made and made < self.sliding.shape[0]:
                return
            if self.feed is not None:
                self.feed.need(needed)
            self._do(out)
            self.sink.put(out, self.tile.out)
            self.done = out.stop

    def _do(self, out: range) -> None:
        if self.elementwise:
            self._elementwise(out)
        else:
            self._slide(out)

    # -- the elementwise engine

    def _elementwise(self, out: range) -> None:
        operands, fixes = [self.sliding], [self.fix_in]
        if self.skip is not None:
            assert isinstance(self.node, Add)
            self.skip.need(out)
            first = self.block.start if self.skip.external is None else 0
            operands.append(Sliding(self.skip.rows, Window(), self.layer.out_shape, first, len(self.block)))
            fixes.append(self._skip_fix(self.node))
        lowest = min(fixes)
        shift = self.fix_out - lowest
        reads = [fix - lowest for fix in fixes]
        if max(reads) > _SHIFT_READ or not -_SHIFT_RIGHT <= shift <= _SHIFT_LEFT:
            raise CompileError(
                f"layer {self.node.name!r}: fix positions {fixes} of its inputs and {self.fix_out} of its output are "
                f"further apart than {_SHIFT_READ} bits: quantize it with closer ones"
            )
        act = int(isinstance(self.node, Add | Activation) and self.node.activation == "relu")
        elementwise(
            self.code,
            self.node.name,
            list(zip(operands, reads, strict=True)),
            self.result,
            out,
            self.tile.out,
            act=act,
            shift=shift,
        )

    def _skip_fix(self, node: Add) -> int:
        plan, graph = self.writer.plan, self.writer.graph
        if plan.post is None:
            return graph.fix_of(node.inputs[1]) or 0
        other = next((name for name in node.inputs if name != plan.main.name), plan.main.name)
        return graph.fix_of(other) or 0

    # -- the ALU

    def _slide(self, out: range) -> None:
        weights = bias = 0
        if isinstance(self.node, Depthwise):
            settings, weights, bias = self._depthwise(self.node)
        else:
            settings = _settings(self.node, self.fix_in, self.fix_out)
        _, channels = self.writer._channels(self.block, self.layer.out_shape[2])
        slide(
            self.code,
            self.node.name,
            self.sliding,
            self.result,
            settings,
            out,
            self.tile.out,
            channels=channels,
            weights=weights,
            bias=bias,
        )

    def _depthwise(self, node: Depthwise) -> tuple[AluInit, int, int]:
        how, values, biases = self.writer.arithmetic(node, self.fix_in, self.fix_out)
        if self.loaded.depthwise is None:
            size = node.shape[-1]
            first, channels = self.writer._channels(self.block, size)
            taps = node.kernel[0] * node.kernel[1]
            bias_word = self.writer._bias(node, self.block, biases)
            weights = self.code.parameters.add(node.name, "weights", taps * size, values)
            self.loaded.depthwise = self.code.load_depthwise(weights + first, taps, size, channels), bias_word
        settings = AluInit(exec_mode=0, act_type=how.act_type, shift_cut=how.shift_cut, shift_bias=how.shift_bias)
        return settings, *self.loaded.depthwise


def _by_elements(node: Node) -> bool:
    return isinstance(node, Add) or (isinstance(node, Activation) and node.activation != "leaky_relu") or is_thinning(node)


def _settings(node: Node, fix_in: int, fix_out: int) -> AluInit:
    """What an ALU does for a pooling or a leaky ReLU."""
    if isinstance(node, Activation):
        shift = fix_in - fix_out
        return AluInit(exec_mode=4, multi_factor=26, shift_prelu_p=_prelu(node, shift), shift_prelu_n=_prelu(node, shift + 8))
    assert isinstance(node, Pool)
    if node.kind == "max":
        if fix_out < fix_in and (node.padding[2] >= node.kernel[0] or node.padding[0] >= node.kernel[1]):
            raise CompileError(
                f"layer {node.name!r}: its first window lies in the padding, where the DPU rounds -128: pad less"
            )
        return AluInit(exec_mode=3, shift_cut=_pool_shift(node, fix_out - fix_in))
    factor, shift = mean_factor(node)
    return AluInit(exec_mode=2, multi_factor=factor, shift_cut=_pool_shift(node, fix_out - fix_in - shift))


def _pool_shift(node: Pool, left: int) -> int:
    if not -_POOL_RIGHT <= left <= _POOL_LEFT:
        raise CompileError(
            f"layer {node.name!r}: its output's fix position asks for a shift by {left} bits, the DPU has "
            f"-{_POOL_RIGHT}..{_POOL_LEFT} behind a pooling: quantize it with a closer one"
        )
    return left if left >= 0 else 8 - left


def _prelu(node: Node, right: int) -> int:
    if not -31 <= right <= 31:
        raise CompileError(f"layer {node.name!r}: fix positions {right} bits apart; a leaky ReLU takes up to 31")
    return 32 + right if right >= 0 else -right
