"""Pools, means and reshapes of a traced torch model, and the sizes of sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import fx

from edgesearch.board_eval.graph import Pool, Reshape, average_factor, window_output
from edgesearch.board_eval.lowering._values import Unsupported, Values, name_of


class Windows(Values):
    """Pools and reshapes, one method per kind."""

    def pool(self, at: fx.Node, kind: str, kernel: Any, stride: Any, padding: Any, *, ceil: bool, whole: bool = False) -> None:
        source = self.value(at.args[0])
        height, width, channels = self.image(source)
        size, step = pair(kernel), pair(kernel if stride is None or stride == [] else stride)
        vertical, horizontal = pair(padding)
        out_h = _pool_output(height, vertical, size[0], step[0], ceil=ceil, average=kind == "avg")
        out_w = _pool_output(width, horizontal, size[1], step[1], ceil=ceil, average=kind == "avg")
        node = Pool(
            name=name_of(at),
            inputs=(source,),
            shape=(out_h, out_w, channels),
            kind="max" if kind == "max" else "avg",
            kernel=size,
            stride=step,
            padding=(horizontal, horizontal, vertical, vertical),
            ceil_mode=ceil,
            is_global=whole,
            factor=average_factor(size) if kind == "avg" else 1.0,
        )
        self.put(at, node)

    def adaptive_average(self, at: fx.Node, output: Any) -> None:
        source = self.value(at.args[0])
        height, width, _ = self.image(source)
        sides = output if isinstance(output, list | tuple) and len(output) == 2 else (output, output)
        out_h, out_w = pair([size if side is None else side for side, size in zip(sides, (height, width), strict=True)])
        if min(out_h, out_w) < 1:
            raise Unsupported(f"adaptive pooling to {out_h} x {out_w}, expected sizes of at least 1")
        if height % out_h or width % out_w:
            raise Unsupported(f"adaptive pooling of {height} x {width} to {out_h} x {out_w}: the sizes do not divide")
        if (out_h, out_w) == (height, width):
            self.values[at] = source  # a copy, which an in-place operation changes alone
            return
        kernel = (height // out_h, width // out_w)
        self.pool(at, "avg", kernel, kernel, 0, ceil=False, whole=(out_h, out_w) == (1, 1))

    def mean(self, at: fx.Node, dims: Any, keep: Any) -> None:
        if not isinstance(dims, list | tuple) or sorted(int(d) % 4 for d in dims if isinstance(d, int)) != [2, 3]:
            raise Unsupported("a mean over other dimensions than height and width")
        self.adaptive_average(at, 1)
        if not keep:
            pooled = self.values[at]
            node = Reshape(name=f"{at.name}_flatten", inputs=(pooled,), shape=(self.shape(pooled)[-1],))
            self.put(at, node, "_flatten")

    def flatten(self, at: fx.Node) -> None:
        source = self.value(at.args[0])
        shape = self.shape(source)
        self.share(at, at.args[0])
        if len(shape) == 1:
            self.values[at] = source
            return
        height, width, channels = shape
        self.put(at, Reshape(name=name_of(at), inputs=(source,), shape=(height * width * channels,)))
        if height * width > 1:
            self.flattened[self.values[at]] = (height, width, channels)

    def view(self, at: fx.Node, sizes: Sequence[Any]) -> None:
        """A reshape or view to (batch, features); the batch and one other size may be -1."""
        count = int(np.prod(self.shape(self.value(at.args[0]))))
        if len(sizes) != 2 or sizes[0] not in (-1, 1) or sizes[1] not in (-1, count):
            raise Unsupported("a reshape other than to (batch, features)")
        self.flatten(at)


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of an argument that may be one number; raises Unsupported for what is none."""
    sides = value if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(sides) <= 2 or not all(isinstance(side, Integral) for side in sides):
        raise Unsupported(f"a size that is {value!r}, expected a whole number, or two: height and width")
    return int(sides[0]), int(sides[-1])


def padding_of(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if value == "valid":
        return (0, 0, 0, 0)
    if value == "same":
        total_h, total_w = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    vertical, horizontal = pair(value)
    return (horizontal, horizontal, vertical, vertical)


def _pool_output(length: int, padding: int, kernel: int, stride: int, *, ceil: bool, average: bool) -> int:
    """Output length of a pool in one direction; raises Unsupported where torch and the DPU would differ."""
    if length + 2 * padding < kernel:
        raise Unsupported(f"a kernel of {kernel} on an input of {length}")
    n = window_output(length, 2 * padding, kernel, stride, ceil=ceil)
    if ceil and (n - 1) * stride >= length + padding:
        raise Unsupported("ceil_mode with a last window outside the image, which torch drops and the DPU keeps")
    if ceil and average and (n - 1) * stride + kernel > length + 2 * padding:
        raise Unsupported("average pooling with ceil_mode whose last window is cut; torch divides by the smaller window")
    return n
