"""One instruction each: a convolution of some rows and a group of channels, a window, an elementwise operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgesearch.board_eval.compiler._code import Code
from edgesearch.board_eval.compiler._parameters import Arithmetic
from edgesearch.board_eval.compiler._rows import Bank, Rows, Span, ceil_div
from edgesearch.board_eval.compiler._step import Step, Stream
from edgesearch.board_eval.isa import WINDOW_ROUNDS, Alu, AluInit, Conv, ConvInit, Elew, ElewInit
from edgesearch.board_eval.timing import Window
from edgesearch.errors import CompileError

__all__ = ["Result", "Sliding", "convolve", "elementwise", "slide"]

#: Columns of one CONV.
_CONV_COLUMNS = 1024
#: Words from column to column that an ALU knows; more leave room for one column in a bank, which needs none.
_ALU_JUMP = 1024


@dataclass(frozen=True, slots=True)
class Sliding:
    """A window on an operand: where it is read, its size (H, W, C), and the first word of a pixel and how many of them."""

    rows: Rows
    window: Window
    shape: tuple[int, int, int]
    first_word: int
    words: int

    def inputs(self, top: int, bottom: int) -> list[int]:
        """Input rows that output rows `top` to `bottom` are made of."""
        kernel, stride, before = self.window.kernel[0], self.window.stride[0], self.window.padding[2]
        needed: dict[int, None] = {}
        for out in range(top, bottom):
            first = out * stride - before
            needed.update(dict.fromkeys(range(max(0, first), min(self.shape[0], first + kernel))))
        return list(needed)

    def spans(self, top: int, bottom: int, columns: range) -> list[Span]:
        """The words that are read."""
        left, stride = self.window.padding[0], self.window.stride[1]
        start = max(0, columns.start * stride - left)
        stop = min(self.shape[1], (columns.stop - 1) * stride - left + self.window.kernel[1])
        if start >= stop:
            return []
        size = stop - start
        return [
            self.rows.span(row, start, size, first_word=self.first_word, words=self.words) for row in self.inputs(top, bottom)
        ]


@dataclass(frozen=True, slots=True)
class Result:
    """Where a result is written: rows, and the first word of a pixel and how many of them."""

    rows: Rows
    first_word: int
    words: int

    def first_line(self, row: int, column: int) -> Bank:
        """Where the rows that share a bank with `row` begin: instructions count lines from there."""
        return self.rows.place(row - row % self.rows.stride, column)

    def spans(self, rows: range, columns: range) -> list[Span]:
        """The words that are written."""
        return [self.rows.span(row, columns.start, len(columns), first_word=self.first_word, words=self.words) for row in rows]


def _after(last_start: int, kernel: int, size: int) -> int:
    """Real rows, or columns, after the first of the last window: what `pad_bottom` and `pad_right` hold."""
    return kernel - 1 - max(0, last_start + kernel - size)


def convolve(
    code: Code,
    layer: str,
    sliding: Sliding,
    result: Result,
    how: Arithmetic,
    out: range,
    columns: range,
    weights: int,
    bias: int,
) -> None:
    """CONVs of the output rows `out` and `columns`, one group of channels."""
    for rows in _stripes(layer, sliding, out):
        for first in range(columns.start, columns.stop, _CONV_COLUMNS):
            part = range(first, min(first + _CONV_COLUMNS, columns.stop))
            _convolve(code, layer, sliding, result, how, rows, part, weights, bias)


def _convolve(
    code: Code,
    layer: str,
    sliding: Sliding,
    result: Result,
    how: Arithmetic,
    out: range,
    columns: range,
    weights: int,
    bias: int,
) -> None:
    window, rows, target = sliding.window, sliding.rows, code.target
    (kernel_h, kernel_w), (stride_h, stride_w) = window.kernel, window.stride
    row, column = out.start * stride_h - window.padding[2], columns.start * stride_w - window.padding[0]
    bank, offset, addresses = rows.window(row, column)
    place = result.first_line(out.start, columns.start)
    height, width, channels = sliding.shape
    whole, depth = ceil_div(channels, target.input_parallel), rows.depth
    masked = -channels % target.input_parallel if sliding.first_word + sliding.words == whole else 0
    last_row, last_column = (out.stop - 1) * stride_h - window.padding[2], (columns.stop - 1) * stride_w - window.padding[0]
    code.set(_conv_settings(sliding, result, how, offset, out))
    bottom, right = _after(last_row, kernel_h, height), _after(last_column, kernel_w, width)
    _check_padding(layer, bottom, right)
    code.add(
        Conv(
            bank_id_in=bank,
            bank_addr_in=(addresses[0] + sliding.first_word) % depth,
            bank_addr_in_1=(addresses[1] + sliding.first_word) % depth,
            bank_addr_in_2=(addresses[2] + sliding.first_word) % depth,
            bank_addr_in_3=(addresses[3] + sliding.first_word) % depth,
            bank_id_out=place.bank,
            bank_addr_out=(place.word + result.first_word) % depth,
            bank_addr_weights=weights,
            bank_addr_bias=bias,
            length=len(columns),
            channel_group=sliding.words,
            channel_offset=masked,
            pad_left=max(0, -column),
            pad_top=max(0, -row),
            pad_right=right,
            pad_bottom=bottom,
        ),
        Stream.CONV,
        [
            *sliding.spans(out.start, out.stop, columns),
            Span(code.weight_bank, weights, kernel_h * kernel_w * sliding.words, target.output_parallel),
            Span(code.bias_bank, bias, 1),
        ],
        result.spans(out, columns),
    )


def _conv_settings(sliding: Sliding, result: Result, how: Arithmetic, offset: int, out: range) -> ConvInit:
    window, rows = sliding.window, sliding.rows
    return ConvInit(
        act_type=how.act_type,
        shift_cut=how.shift_cut,
        shift_bias=how.shift_bias,
        kernel_h=window.kernel[0],
        kernel_w=window.kernel[1],
        stride_h=window.stride[0],
        stride_w=window.stride[1],
        valid_pixel_parallel=len(out),
        jump_read=rows.pixel,
        jump_read_endl=rows.line if window.stride[0] > 1 else 1,
        jump_write=result.rows.pixel,
        jump_write_endl=result.rows.line if result.rows.stride > 1 else 1,
        stride_out=result.rows.stride,
        stride_offset_in=offset,
        stride_offset_out=out.start % result.rows.stride,
    )


def slide(
    code: Code,
    layer: str,
    sliding: Sliding,
    result: Result,
    settings: AluInit,
    out: range,
    columns: range,
    *,
    channels: int,
    weights: int = 0,
    bias: int = 0,
) -> None:
    """ALUs of the output rows `out`: pooling, a depthwise convolution, or an activation. `settings` say what is done."""
    for rows in _stripes(layer, sliding, out):
        _slide(code, layer, sliding, result, settings, rows, columns, channels, weights, bias)


def _slide(
    code: Code,
    layer: str,
    sliding: Sliding,
    result: Result,
    settings: AluInit,
    out: range,
    columns: range,
    channels: int,
    weights: int,
    bias: int,
) -> None:
    window, rows = sliding.window, sliding.rows
    stride_h, kernel_h = window.stride[0], window.kernel[0]
    row, column = out.start * stride_h - window.padding[2], columns.start * window.stride[1] - window.padding[0]
    bank, offset, addresses = rows.window(row, column)
    place = result.first_line(out.start, columns.start)
    last_row = (out.stop - 1) * stride_h - window.padding[2]
    last_column = (columns.stop - 1) * window.stride[1] - window.padding[0]
    bottom = _after(last_row, kernel_h, sliding.shape[0])
    right = _after(last_column, window.kernel[1], sliding.shape[1])
    _check_padding(layer, bottom, right)
    code.set(_placed(settings, sliding, result, offset, out, columns, channels, code.target.input_parallel))
    depth = rows.depth
    reads = sliding.spans(out.start, out.stop, columns)
    if settings.exec_mode == 0:
        reads.append(Span(code.depthwise_bank, weights, kernel_h * window.kernel[1] * sliding.words))
        reads.append(Span(code.bias_bank, bias, sliding.words))
    code.add(
        Alu(
            bank_id_in=bank,
            bank_addr_in=(addresses[0] + sliding.first_word) % depth,
            bank_addr_in_1=(addresses[1] + sliding.first_word) % depth,
            bank_addr_in_2=(addresses[2] + sliding.first_word) % depth,
            bank_addr_in_3=(addresses[3] + sliding.first_word) % depth,
            bank_id_out=place.bank,
            bank_addr_out=(place.word + result.first_word) % depth,
            bank_addr_weights=weights,
            bank_addr_bias=bias,
            valid_pixel_parallel=len(out),
            pad_left=max(0, -column),
            pad_top=max(0, -row),
            pad_right=right,
            pad_bottom=bottom,
        ),
        Stream.MISC,
        reads,
        result.spans(out, columns),
    )


def _stripes(layer: str, sliding: Sliding, out: range) -> Iterator[range]:
    """The output rows, as many at a time as read within the four rounds of banks that an instruction knows."""
    window, rows = sliding.window, sliding.rows
    kernel, stride = window.kernel[0], window.stride[0]
    top = out.start
    while top < out.stop:
        step, offset = divmod(top * stride - window.padding[2], rows.stride)
        reach = (WINDOW_ROUNDS * rows.banks - step % rows.banks) * rows.stride - offset
        count = min(out.stop - top, (reach - kernel) // stride + 1)
        if count < 1:
            raise CompileError(
                f"layer {layer!r}: a window of {kernel} rows with stride {stride}; from where it begins in the banks one "
                f"instruction reads {reach} rows: use a smaller window"
            )
        yield range(top, top + count)
        top += count


def _placed(
    settings: AluInit, sliding: Sliding, result: Result, offset: int, out: range, columns: range, channels: int, lanes: int
) -> AluInit:
    window, rows = sliding.window, sliding.rows
    return AluInit(
        exec_mode=settings.exec_mode,
        act_type=settings.act_type,
        shift_cut=settings.shift_cut,
        shift_bias=settings.shift_bias,
        shift_prelu_p=settings.shift_prelu_p,
        shift_prelu_n=settings.shift_prelu_n,
        multi_factor=settings.multi_factor,
        kernel_h=window.kernel[0],
        kernel_w=window.kernel[1],
        stride_h=window.stride[0],
        stride_w=window.stride[1],
        length=len(columns),
        channel_group=sliding.words,
        channel_offset=-channels % lanes,
        jump_read=min(rows.pixel, _ALU_JUMP),
        jump_read_endl=rows.line if rows.stride > 1 else 1,
        jump_write=min(result.rows.pixel, _ALU_JUMP),
        jump_write_endl=result.rows.line if result.rows.stride > 1 else 1,
        jump_read_weights=sliding.words if settings.exec_mode == 0 else 0,
        stride_out=result.rows.stride,
        stride_offset_in=offset,
        stride_offset_out=out.start % result.rows.stride,
    )


def _check_padding(layer: str, bottom: int, right: int) -> None:
    if min(bottom, right) < 0:
        raise CompileError(
            f"layer {layer!r}: its last window lies in the padding, which no field can say: pad less, or round "
            "the output's size down"
        )


def elementwise(
    code: Code,
    layer: str,
    operands: list[tuple[Sliding, int]],
    result: Result,
    out: range,
    columns: range,
    *,
    act: int,
    shift: int,
) -> None:
    """ELEWs of the output rows `out`: the sum of operands, each read with a right shift, moved left by `shift`.

    Rows of a result that lie two to a bank are written line by line: those of one line come from every second bank. No
    instruction reads on from the last bank to the first: the next round need not follow in a ring of rows.
    """
    lines = result.rows.stride
    for chosen in _rows_together([sliding for sliding, _ in operands], result, out):
        reads: list[Span] = []
        for number, (sliding, shift_read) in enumerate(operands):
            step_h, step_w = sliding.window.stride
            place = sliding.rows.place(chosen[0] * step_h, columns.start * step_w)
            code.steps.append(
                Step(
                    ElewInit(
                        id=number,
                        bank_id_in=place.bank,
                        bank_addr_in=(place.word + sliding.first_word) % sliding.rows.depth,
                        jump_bank=step_h * lines if len(chosen) > 1 else 1,
                        jump_read=sliding.rows.pixel * step_w if len(columns) > 1 else 1,
                        shift_read=shift_read,
                    ),
                    Stream.MISC,
                    code.layer,
                )
            )
            for row in chosen:
                reads += sliding.spans(row, row + 1, columns)
        place = result.rows.place(chosen[0], columns.start)
        code.add(
            Elew(
                act_type=act,
                num=len(operands),
                length=len(columns),
                channel_group=result.words,
                valid_pixel_parallel=len(chosen),
                bank_id_out=place.bank,
                bank_addr_out=(place.word + result.first_word) % result.rows.depth,
                jump_write=result.rows.pixel,
                shift_write=shift if shift >= 0 else 16 - shift,
            ),
            Stream.MISC,
            reads,
            [span for row in chosen for span in result.spans(range(row, row + 1), columns)],
        )


def _rows_together(operands: list[Sliding], result: Result, out: range) -> Iterator[list[int]]:
    """The rows that one ELEW does: of one line of the result's banks, up to the last bank of each operand."""
    lines = result.rows.stride
    step = max(sliding.window.stride[0] for sliding in operands) * lines
    for line in range(lines):
        rows = list(range(out.start + line, out.stop, lines))
        while rows:
            starts = [(rows[0] * sliding.window.stride[0]) % sliding.rows.banks for sliding in operands]
            count = ceil_div(result.rows.banks - max(starts), step)
            yield rows[:count]
            rows = rows[count:]
