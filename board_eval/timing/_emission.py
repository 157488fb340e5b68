"""From placed layers to instructions: stripes of rows, groups of output channels, what waits for what.

Laws: one CONV is `pixel_parallel` rows of one group of `output_parallel` channels; a weight LOAD is one output channel; feature
maps move row by row; pooling, depthwise and elementwise work runs `alu_rows` rows at a time. They were read off compiled
xmodels of AMD's compiler (ISA1, B4096); for other geometries the same laws are applied with their parallelisms.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing._allocation import Allocation
from edgesearch.board_eval.timing._columns import Tile, ceil_div, conv_steps, is_augmented, read_columns, read_words, tiles
from edgesearch.board_eval.timing._fusion import Layer, Window
from edgesearch.board_eval.timing._instructions import Kind, Tape
from edgesearch.board_eval.timing._rows import RowCounter, rows_ready

#: Stripes in flight between two engines: the buffers of moved rows and of fused windows are this deep.
BUFFERED_STRIPES = 2
#: Instructions that wait for one engine at most. The code of a compiled ResNet-50 (pruned by 95 %, on chip), replayed with this
#: depth, takes what was measured; 16 make it 3 % slower, an unlimited queue 16 % faster (benchmarks/timing_replay.py).
#: MobileNetV1 networks that fit on the chip ask for 32, and for 64 to 128. Compiled files leave up to 131 tokens outstanding.
QUEUE_DEPTH = 64


def is_chain(allocation: Allocation) -> bool:
    """Whether no layer adds, and none writes a part of a concat."""
    return not allocation.written_into and all(layer.skip is None for layer in allocation.layers)


def emit(allocation: Allocation, image: str, dpu: Target, *, prefetch: bool) -> Tape:
    """The instructions of all layers; with `prefetch`, weights are loaded as soon as their memory is free."""
    emitter = _Emitter(allocation, image, dpu, prefetch)
    for number, layer in enumerate(allocation.layers):
        emitter.layer(number, layer)
    return emitter.tape


class _Emitter:
    def __init__(self, allocation: Allocation, image: str, dpu: Target, prefetch: bool) -> None:
        self.allocation = allocation
        self.image = image
        self.dpu = dpu
        self.prefetch = prefetch
        self.tape = Tape()
        #: Tensor -> position of the instruction that completes it, on chip or in memory.
        self.complete: dict[str, tuple[int, ...]] = {image: ()}
        #: Tensor on chip -> rows made, and the position of the instruction that made them.
        self.made: dict[str, list[tuple[int, int]]] = {}
        #: CONVs written so far, after each of their entries, and where those entries lie.
        self.conv_counts: list[int] = []
        self.conv_entries: list[int] = []
        #: CONVs that stand before the next LOAD in the compiled code.
        self.convs_before = 0
        #: What the first LOAD of the next layer waits for: the end of the layer before it, unless weights are prefetched.
        self.barrier: tuple[int, ...] = ()
        #: Whether no layer adds or concatenates. Compiled files have the barrier behind a layer's last instruction, but the two
        #: MobileNetV1 networks at 224 pixels that AMD measured ask for one behind the last CONV (benchmarks/timing_replay.py).
        #: That is a fit: no compiled file of such a network is known.
        self.chain = is_chain(allocation)
        #: Weights on chip, oldest first: words, and the CONV that is the last to use them.
        self.weights: deque[list[int]] = deque()
        self.weight_words = 0

    def layer(self, number: int, layer: Layer) -> None:
        self.number = number
        self.parameters_due = layer.post == "depthwise"
        self.stripe_ends: list[int] = []
        self.stripe_steps: list[int] = []
        self.last_save = self.last_arithmetic = -1
        self.source_external = not self.allocation.on_chip(layer.source)
        self.skip_external = layer.skip is not None and not self.allocation.on_chip(layer.skip)
        self.external = not self.allocation.on_chip(layer.output)
        if layer.kind == "conv":
            self._conv(layer)
        else:
            self._alone(layer)
        self._finish(layer)

    def _rows_made(self, tensor: str, rows: int) -> tuple[int, ...]:
        """What an instruction that reads the first `rows` rows of a tensor on chip waits for.

        Without prefetch the barrier between layers leaves nothing to gain by looking at rows.
        """
        made = self.made.get(tensor, ()) if self.prefetch else ()
        return next(((at,) for done, at in made if done >= rows), self.complete.get(tensor, ()))

    def _finish(self, layer: Layer) -> None:
        done = self.last_save if self.external else self.last_arithmetic
        if done >= 0:
            self.complete[layer.output] = (done,)
            whole = self.allocation.written_into.get(layer.output)
            while whole is not None:  # SAVEs run in order: the last part completes the whole
                self.complete[whole] = (done,)
                whole = self.allocation.written_into.get(whole)
        if done >= 0 and not self.prefetch:
            self.barrier = (self.stripe_steps[-1] if self.chain else done,)

    # -- moving data

    def _load(self, kind: Kind, after: tuple[int, ...], **work: int) -> int:
        if kind in (Kind.LOAD_WEIGHTS, Kind.LOAD_BIAS):
            after += self.barrier
            self.barrier = ()
        after += self._issued(work.get("repeat", 1))
        return self.tape.emit(kind, self.number, after, **work)

    def _issued(self, loads: int) -> tuple[int, ...]:
        """What the next LOADs wait for because code is issued in its order and no queue takes more than `QUEUE_DEPTH`.

        The compiler writes one instruction of each engine in turn: while weights are prefetched, a LOAD stands behind each
        CONV that does not need it. So a LOAD is issued when the CONV that many places before it has started.
        """
        if not self.prefetch:
            return ()
        written = self.conv_counts[-1] if self.conv_counts else 0
        ended = self.convs_before - QUEUE_DEPTH - 1
        self.convs_before = min(self.convs_before + loads, written)
        position = bisect_right(self.conv_counts, ended) - 1
        return (self.conv_entries[position],) if position >= 0 else ()

    def _convolve(self, after: tuple[int, ...], stripe: int, group: int, cycles: int, repeat: int = 1) -> int:
        at = self.tape.emit(Kind.CONV, self.number, after, stripe=stripe, group=group, repeat=repeat, cycles=cycles)
        if self.prefetch:
            self.conv_counts.append(repeat + (self.conv_counts[-1] if self.conv_counts else 0))
            self.conv_entries.append(at)
        return at

    def _parameters(self, window: Window, channels: int, bias: bool) -> int:
        """Weights and bias of a depthwise convolution; returns the position of the last LOAD."""
        lanes = ceil_div(channels, self.dpu.input_parallel)
        size = window.kernel[0] * window.kernel[1]
        if bias:
            self._load(Kind.LOAD_BIAS, (), bytes=channels, words=lanes)
        return self._load(Kind.LOAD_BIAS, (), bytes=size * channels, words=size * lanes)

    def _rows(
        self,
        tensor: str,
        stripe: int,
        rows: int,
        columns: int,
        channels: int,
        *,
        augmented: int = 0,
        before: tuple[int, ...] = (),
    ) -> int:
        """LOADs of `rows` rows, behind what `before` names; returns the position of the last."""
        width = augmented or channels
        words = columns * ceil_div(width, self.dpu.input_parallel)
        pieces = ceil_div(words, self.dpu.transfer_words)
        after = self.complete.get(tensor, ()) + before
        if len(self.stripe_steps) >= BUFFERED_STRIPES:
            after += (self.stripe_steps[-BUFFERED_STRIPES],)
        return self._load(
            Kind.LOAD_IMAGE if tensor == self.image else Kind.LOAD_ROWS,
            after,
            stripe=stripe,
            repeat=rows * pieces,
            bytes=ceil_div(columns * width, pieces),
            words=ceil_div(words, pieces),
        )

    def _save(self, stripe: int, rows: int, columns: int, channels: int, after: tuple[int, ...]) -> None:
        words = columns * ceil_div(channels, self.dpu.input_parallel)
        pieces = ceil_div(words, self.dpu.transfer_words)
        self.last_save = self.tape.emit(
            Kind.SAVE,
            self.number,
            after,
            stripe=stripe,
            repeat=rows * pieces,
            bytes=ceil_div(columns * channels, pieces),
            words=ceil_div(words, pieces),
        )

    def _group_weights(self, group: int, channels: int, steps: int, size: int) -> tuple[int, list[int]]:
        """LOADs of one group's weights, once there is room for them."""
        after: tuple[int, ...] = ()
        while self.weight_words + steps > self.dpu.bank_words:
            words, last_use = self.weights.popleft()
            self.weight_words -= words
            after = (last_use,)
        entry = [steps, -1]
        self.weights.append(entry)
        self.weight_words += steps
        at = self._load(Kind.LOAD_WEIGHTS, after, group=group, repeat=channels, bytes=size, words=steps)
        return at, entry

    # -- convolutions

    def _conv(self, layer: Layer) -> None:
        dpu = self.dpu
        channels = layer.mid_shape[2]
        if layer.has_bias:
            self._load(Kind.LOAD_BIAS, (), bytes=channels, words=ceil_div(channels, dpu.output_parallel))
        steps = conv_steps(layer, self.image, dpu)
        per_block = dpu.bank_words // max(steps)
        groups = len(steps)
        pieces = tiles(layer, self.image, dpu, loads=self.source_external)
        for first in range(0, groups, per_block):
            block = range(first, min(first + per_block, groups))
            self._block(layer, block, pieces, steps)

    def _block(self, layer: Layer, block: range, tiles: list[Tile], steps: list[int]) -> None:
        dpu = self.dpu
        kernel_h, kernel_w = layer.window.kernel
        lanes = dpu.input_parallel
        read = [read_words(layer, group, dpu) for group in range(len(steps))]
        sizes = [kernel_h * kernel_w * (min(words.stop * lanes, layer.in_shape[2]) - words.start * lanes) for words in read]
        usual = ceil_div(sum(steps[block.start : block.stop]), len(block))
        channels = min(layer.mid_shape[2], block.stop * dpu.output_parallel) - block.start * dpu.output_parallel
        entries: list[list[int]] = []
        height = layer.mid_shape[0]
        at = -1
        for t, tile in enumerate(tiles):
            loader = RowCounter(layer)
            self.made[layer.output] = []  # rows are whole when the last columns of the last channels are there
            done_out = 0
            for s, top in enumerate(range(0, height, dpu.pixel_parallel)):
                bottom = min(top + dpu.pixel_parallel, height)
                waits = self._conv_inputs(layer, loader, s, bottom, bottom - top, tile, channels)
                last = t == len(tiles) - 1 and bottom == height
                if not last and (t > 0 or s > 0):  # no loads in between, weights still needed: nothing to tell groups apart
                    at = self._convolve(waits, s, block.start, tile.mid * usual, len(block))
                    done_out = self._after_stripe(layer, s, top, bottom, done_out, tile, channels, at)
                    continue
                for group in block:
                    if t == 0 and s == 0:
                        lanes = min(dpu.output_parallel, layer.mid_shape[2] - group * dpu.output_parallel)
                        loaded, entry = self._group_weights(group, lanes, steps[group], sizes[group])
                        entries.append(entry)
                        waits = (*waits, loaded)
                    at = self._convolve(waits, s, group, tile.mid * steps[group])
                    entries[group - block.start][1] = at
                    waits = ()
                done_out = self._after_stripe(layer, s, top, bottom, done_out, tile, channels, at)

    def _conv_inputs(
        self, layer: Layer, loader: RowCounter, stripe: int, bottom: int, rows: int, tile: Tile, channels: int
    ) -> tuple[int, ...]:
        """LOADs of the rows a stripe newly needs; what its first CONV waits for."""
        waits: tuple[int, ...] = ()
        if self.source_external:
            needed = loader.new_rows(bottom)
            if needed:
                augmented = is_augmented(layer, self.image, self.dpu)
                width = layer.window.kernel[1] * layer.in_shape[2] if augmented else 0
                columns = tile.mid if augmented else tile.read
                waits += (self._rows(layer.source, stripe, needed, columns, layer.in_shape[2], augmented=width),)
        else:
            loader.new_rows(bottom)
            waits += self._rows_made(layer.source, loader.reach)
        if self.skip_external and layer.skip is not None:
            waits += (self._rows(layer.skip, stripe, rows, tile.mid, channels),)
        if len(self.stripe_ends) >= BUFFERED_STRIPES:
            waits += (self.stripe_ends[-BUFFERED_STRIPES],)
        return waits

    def _after_stripe(
        self, layer: Layer, stripe: int, top: int, bottom: int, done: int, tile: Tile, channels: int, at: int
    ) -> int:
        """What is fused behind a convolution, for as many rows as its stripe completes, and the SAVEs. Returns rows done."""
        end = at
        self.stripe_steps.append(at)
        if layer.post == "none":
            if self.external:
                self._save(stripe, bottom - top, tile.out, channels, (at,))
                end = self.last_save
            done = bottom
            self.made[layer.output].append((done, at))
        else:
            limit = bottom if layer.post == "add" else rows_ready(layer, bottom)
            while done < limit:
                rows = min(self.dpu.alu_rows, layer.out_shape[0] - done)
                if done + rows > limit:
                    break
                after: tuple[int, ...] = (at,)
                if self.parameters_due:  # the compiler loads them behind the convolution's own weights
                    self.parameters_due = False
                    after += (self._parameters(layer.post_window, layer.mid_shape[2], layer.post_bias),)
                if layer.post == "add" and layer.skip is not None and done == 0:
                    after += self.complete.get(layer.skip, ())
                end = at = self._misc(layer.post, layer.post_window, stripe, tile.out, channels, after)
                if self.external:
                    self._save(stripe, rows, tile.out, channels, (at,))
                    end = self.last_save
                done += rows
                self.made[layer.output].append((done, at))
        self.last_arithmetic = at
        self.stripe_ends.append(end)
        return done

    # -- everything else

    def _misc(self, what: str, window: Window, stripe: int, columns: int, channels: int, after: tuple[int, ...]) -> int:
        words = columns * ceil_div(channels, self.dpu.input_parallel)
        if what in ("depthwise", "pool"):
            steps = words * window.kernel[0] * window.kernel[1]
            return self.tape.emit(Kind.ALU, self.number, after, stripe=stripe, words=words, cycles=steps)
        operands = 2 if what == "add" else 1
        return self.tape.emit(Kind.ELEW, self.number, after, stripe=stripe, words=words, cycles=words * operands)

    def _alone(self, layer: Layer) -> None:
        height, width, channels = layer.out_shape
        parameters: tuple[int, ...] = ()
        if layer.kind == "depthwise":
            parameters = (self._parameters(layer.window, channels, layer.has_bias),)
        loader = RowCounter(layer)
        made = self.made[layer.output] = []
        columns = read_columns(layer, width)
        for stripe, top in enumerate(range(0, height, self.dpu.alu_rows)):
            rows = min(self.dpu.alu_rows, height - top)
            after = parameters if stripe == 0 else ()
            if self.source_external:
                needed = loader.new_rows(top + rows)
                if needed:
                    before = (self.last_save,) if layer.serial and self.last_save >= 0 else ()
                    after += (self._rows(layer.source, stripe, needed, columns, layer.in_shape[2], before=before),)
            else:
                loader.new_rows(top + rows)
                after += self._rows_made(layer.source, loader.reach)
            if layer.skip is not None and self.skip_external:
                after += (self._rows(layer.skip, stripe, rows, width, channels),)
            elif layer.skip is not None and stripe == 0:
                after += self.complete.get(layer.skip, ())
            self._alone_step(layer, stripe, rows, after)
            made.append((top + rows, self.stripe_steps[-1]))

    def _alone_step(self, layer: Layer, stripe: int, rows: int, after: tuple[int, ...]) -> None:
        _, width, channels = layer.out_shape
        if len(self.stripe_ends) >= BUFFERED_STRIPES:
            after += (self.stripe_ends[-BUFFERED_STRIPES],)
        if layer.kind == "copy":
            self._save(stripe, rows, width, channels, after)
            step = end = self.last_save
        else:
            step = end = self.last_arithmetic = self._misc(layer.kind, layer.window, stripe, width, channels, after)
            if self.external:
                self._save(stripe, rows, width, channels, (step,))
                end = self.last_save
        self.stripe_steps.append(step)
        self.stripe_ends.append(end)
